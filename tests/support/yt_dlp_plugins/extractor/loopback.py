"""A video site for the tests: http://127.0.0.1:PORT/watch?v=ID, answered by tests/support/media_server.py.

yt-dlp finds it as a plugin when tests/support is on the path of Python. A page is {"error", "kind"} for an error of
ExtractorError or another class, or {"formats", "duration", "live_status", "warnings"} for a video.
"""

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError


class LoopbackIE(InfoExtractor):
    _VALID_URL = r"(?P<server>http://127\.0\.0\.1:\d+)/watch\?v=(?P<id>[\w-]+)"

    def _real_extract(self, url):
        server, video_id = self._match_valid_url(url).group("server", "id")
        page = self._download_json(f"{server}/info/{video_id}.json", video_id)
        for warning in page.get("warnings", []):
            self.report_warning(warning)
        if page.get("kind") == "geo":
            self.raise_geo_restricted(page["error"])
        if page.get("kind") == "bug":
            raise KeyError(page["error"])
        if "error" in page:
            raise ExtractorError(page["error"], expected=True, video_id=video_id)
        formats = [{**f, "url": f"{server}/{f['url']}"} for f in page["formats"]]
        return {
            "id": video_id,
            "title": video_id,
            "formats": formats,
            "duration": page.get("duration"),
            "live_status": page.get("live_status"),
        }

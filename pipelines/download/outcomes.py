"""What an error of a video site means: the clip is gone, not available here, to be retried, or the run must stop.

One table of patterns over the texts of YouTube, yt-dlp and ffmpeg; the first match counts, and an unknown text means
`retry`. A bot check, a rate limit and a fault of this machine say nothing about the clip: they stop the run and leave
no entry in the ledger.
"""

import re
from typing import NamedTuple

MAX_DETAIL = 200

_UPDATE = "pip install -U 'yt-dlp[default]'"
_SLOWER = "wait an hour, lower clips_per_hour or use another address (proxy=, slice=)"

# (status, pattern, what to do). "stop" first: YouTube reports rate limits as "Video unavailable. ... try again later".
_PATTERNS = (
    ("stop", r"confirm you.{1,3}re not a bot|captcha|unusual traffic", "YouTube checks for bots here: " + _SLOWER),
    ("stop", r"rate.?limited|content isn.t available, try again later|HTTP Error 429|HTTP error 429|Too Many Requests",
     "the site limits the rate: " + _SLOWER),
    ("stop", r"IP is likely being blocked|IP address (?:has been|is) (?:blocked|banned)",
     "the site blocks this address: use another one (proxy=)"),
    ("stop", r"No supported JavaScript runtime|supported JavaScript runtime and challenge solver",
     f"YouTube needs a JavaScript runtime: install deno, and {_UPDATE}"),
    ("stop", r"No space left on device|Disk quota exceeded|Errno 28\b|Errno 122\b",
     "free some space or choose another source.root"),
    ("stop", r"File too large|Errno 27\b|exited with code -25\b",
     "the limit on file sizes is too low: raise it with ulimit -f"),
    ("stop", r"Read-only file system|Errno 30\b|\[Errno 13\] Permission denied", "choose a writable source.root"),
    ("stop", r"Unable to connect to proxy|ProxyError|Proxy Authentication Required|HTTP Error 407"
     r"|Tunnel connection failed",
     "the proxy does not work: check proxy= and the environment variables http_proxy and https_proxy"),
    ("stop", r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
     "a proxy answers in place of the site, or the certificates of this machine are out of date"),
    ("stop", r"answered a web page in place of the video",
     "a proxy or a login page answers in place of the site: open the address in a browser"),
    ("stop", r"Unsupported URL", "the address is not that of a video site that yt-dlp supports, or a proxy or login "
     "page answers in its place: open it in a browser, and check url="),
    ("stop", r"ffmpeg (?:could not be found|is not installed)", "install ffmpeg or the package imageio-ffmpeg"),
    ("stop", r"cookies (?:are no longer valid|have been rotated)", "export the cookies again (cookies=)"),
    ("not_here", r"confirm your age|age.restricted|inappropriate for some users|identified by the YouTube community",
     ""),
    ("not_here", r"(?:not |n.t )(?:made this video )?available (?:in|from) your (?:country|location|region)"
     r"|blocked (?:it )?in your country|geo.?restrict|not available in your (?:country|region)|HTTP Error 451", ""),
    ("not_here", r"members.only|members on level|join this channel|requires payment|Premium members|requires? a "
     r"(?:purchase|rental)|only available for registered users|HTTP Error 401|requires authentication", ""),
    ("not_here", r"DRM.protected|This video is restricted|Restricted Mode|not available on this app", ""),
    ("retry", r"live event will begin|Premieres? (?:in|will)|Premiering|\bis live\b|currently live"
     r"|processing this video|live stream (?:is offline|has not)|is_upcoming|not currently live", ""),
    ("retry", r"Unable to download API page|Failed to parse JSON|HTTP Error 403|403 Forbidden", ""),
    ("gone", r"private video|video is private|video unavailable|video has been removed|removed (?:by|for)"
     r"|account.{0,60}(?:terminated|closed)|(?:is |isn.t )(?:no longer )?available any ?more|no longer available"
     r"|video (?:does not|doesn.t) exist|recording is not available|video is (?:not available|unavailable)"
     r"|copyright (?:claim|grounds|infringement)|Incomplete YouTube ID|violat\w+ YouTube", ""),
    ("gone", r"(?:HTTP [Ee]rror |returned )(?:404|410)\b", ""),
)  # fmt: skip
_FLAGS = re.IGNORECASE | re.DOTALL
_TABLE = tuple((status, re.compile(pattern, _FLAGS), advice) for status, pattern, advice in _PATTERNS)

_PREFIX = re.compile(r"^(?:ERROR: *)?(?:\[[\w:+.-]+\] *)?(?:[\w-]+: )?")
# Hints of yt-dlp for users of its own command line.
_HINT = re.compile(
    r"(?<!occurred\.) \(caused by .*|[.;,]? +(?:Use|See|please report|Confirm you are on)\b.*"
)  # the cause of "An extractor error has occurred." stays


class Verdict(NamedTuple):
    """What an error means.

    Attributes:
        status: gone, not_here, retry or stop.
        detail: the error in one line, without the hints of yt-dlp.
        advice: what to do, for `stop`.
    """

    status: str
    detail: str
    advice: str = ""


def classify(text: str) -> Verdict:
    """The meaning of an error text of yt-dlp, of the site or of ffmpeg."""
    text = text.replace("\u2019", "'")
    for status, pattern, advice in _TABLE:
        if match := pattern.search(text):
            line = text[text.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
            return Verdict(status, shorten(line), advice)
    return Verdict("retry", shorten(text))


def shorten(text: str) -> str:
    """An error of yt-dlp in one line of at most MAX_DETAIL characters, without its prefix and its hints."""
    text = " ".join(text.split())
    return (_HINT.sub("", _PREFIX.sub("", text)) or text)[:MAX_DETAIL]

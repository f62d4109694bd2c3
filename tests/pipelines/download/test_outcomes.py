"""What the texts of YouTube, yt-dlp and ffmpeg mean for a clip."""

import pytest

from pipelines.download.outcomes import MAX_DETAIL, classify, shorten

TEXTS = {
    "stop": [
        "Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser or --cookies for the authentication.",
        "Sign in to confirm you're not a bot",
        "Video unavailable. YouTube is requiring a captcha challenge before playback",
        "Video unavailable. This content isn\u2019t available, try again later. The current session has been "
        "rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay",
        "Unable to download API page: HTTP Error 429: Too Many Requests (caused by <HTTPError 429: Too Many>)",
        "All player responses are invalid. Your IP is likely being blocked by Youtube",
        "No supported JavaScript runtime could be found. Only deno is enabled by default",
        "n challenge solving failed: Some formats may be missing. Ensure you have a supported JavaScript runtime and "
        "challenge solver script distribution installed.",
        "unable to write data: [Errno 28] No space left on device",
        "Unable to open cut.mp4: [Errno 13] Permission denied",
        "Unable to download webpage: ('Unable to connect to proxy', OSError('Tunnel connection failed: 407'))",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
        "Unsupported URL: http://portal.example/login",
    ],
    "not_here": [
        "Sign in to confirm your age. This video may be inappropriate for some users. Use --cookies",
        "The uploader has not made this video available in your country",
        "Video unavailable. This video contains content from SME, who has blocked it in your country on copyright "
        "grounds",
        "Video unavailable. The uploader has not made this video available in your country",
        "This video is not available from your location due to geo restriction",
        "Join this channel to get access to members-only content like this video, and other exclusive perks.",
        "This video is available to this channel's members on level: Gold (or any higher level).",
        "This video requires payment to watch",
        "This video is only available to Music Premium members",
        "This video is DRM protected",
        "This video is only available for registered users. Use --cookies",
        "Unable to download webpage: HTTP Error 451: Unavailable For Legal Reasons",
    ],
    "gone": [
        "Private video. Sign in if you've been granted access to this video. Use --cookies-from-browser",
        "This video is private",
        "Video unavailable",
        "Video unavailable. This video has been removed by the uploader",
        "Video unavailable. This video is no longer available because the YouTube account associated with this "
        "video has been terminated.",
        "Video unavailable. This video is no longer available due to a copyright claim by X",
        "This video has been removed for violating YouTube's Terms of Service",
        "This video has been removed for violating YouTube's policy on hate speech. Learn more",
        "Video unavailable. This video isn't available anymore",
        "This live stream recording is not available.",
        "Video unavailable. This video contains content from UMG, who has blocked it on copyright grounds",
        "Video unavailable. The uploader has closed their YouTube account",
        "[generic] v: Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404: Not Found>)",
        "Unable to download webpage: HTTP Error 410: Gone",
        "Incomplete YouTube ID abc. URL https://www.youtube.com/watch?v=abc looks truncated.",
    ],
    "retry": [
        "This live event will begin in 3 hours.",
        "Premieres in 2 days",
        "We're processing this video. Check back later.",
        "Unable to download API page: HTTP Error 404: Not Found",
        "Unable to download API page: HTTP Error 503: Service Unavailable",
        "Please sign in. Use --cookies-from-browser or --cookies for the authentication.",
        "Unable to download webpage: <urlopen error timed out>",
        "HTTP Error 403: Forbidden",
        "Requested format is not available. Use --list-formats for a list of available formats",
        "Failed to resolve 'www.youtube.com' ([Errno -3] Temporary failure in name resolution)",
        "something that nobody has seen yet",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("status", "text"), [(status, text) for status, texts in TEXTS.items() for text in texts])
def test_text_has_its_meaning(status, text):
    verdict = classify(f"ERROR: [youtube] a-b_c: {text}")
    assert verdict.status == status and bool(verdict.advice) == (status == "stop")


def test_detail_is_one_short_line_without_hints_for_another_command():
    text = (
        "ERROR: [youtube] a-b_c: Private video. Sign in if you've been granted access.\n Use --cookies-from-browser or"
    )
    assert shorten(text) == "Private video. Sign in if you've been granted access"
    assert len(shorten("x" * 1000)) == MAX_DETAIL
    text = "ERROR: [generic] v: Unable to download webpage: HTTP Error 404: Not Found (caused by <HTTPError 404>)"
    assert shorten(text) == "Unable to download webpage: HTTP Error 404: Not Found"

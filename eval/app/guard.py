"""HTTP rules around the page: only its own routes and files, no requests of other sites, limited bodies."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from eval.app.temp_folder import TempFolder

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# What the page needs of Gradio; not: fetching of addresses (proxy), API documentation, monitoring, editing, streams.
_GET = re.compile(
    r"/|/(config|favicon\.ico|theme\.css|manifest\.json|robots\.txt|health)/?|/(assets|static|svelte)/.*|"
    r"/gradio_api/(startup-events|app_id|queue/data|upload_progress|theme\.css|heartbeat/[^/]*|file=.*)/?"
)
_POST = re.compile(r"/gradio_api/(upload|queue/join|cancel|reset|run/predict)/?")
_UPLOAD = "/gradio_api/upload"
_MAX_JSON_BYTES = 1_000_000
_MULTIPART_BYTES = 100_000  # headers of the parts of an upload
_LOOPBACK = re.compile(r"(127(\.\d+){3}|localhost|\[::1\])(:\d+)?")
# No address outside this server, whatever a library or an uploaded file asks for.
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
        "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """ASGI application around the page.

    Args:
        app: the page.
        folder: whose room uploads must fit into.
        max_upload_bytes: of one upload.
        only_loopback: refuse requests that name another host (a DNS rebinding attack); for servers on 127.0.0.1.
    """

    def __init__(self, app: Application, folder: TempFolder, max_upload_bytes: int, only_loopback: bool) -> None:
        self.app, self.folder = app, folder
        self.max_upload_bytes, self.only_loopback = max_upload_bytes, only_loopback

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on to the page."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            if refusal := self._refusal(scope, headers):
                await _respond(send, *refusal)
            elif scope["path"].rstrip("/") == "/health":
                await _respond(send, 200, "ok")
            else:
                max_bytes = self._max_body_bytes(scope["path"])
                if self.only_loopback:  # compression takes longer than sending to this machine
                    kept = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
                    scope = {**scope, "headers": kept}
                await self.app(scope, _limited(receive, max_bytes), _with_headers(send))

    def _refusal(self, scope: Message, headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and message for a request that must not reach the page."""
        path, host = scope["path"], headers.get("host", "")
        routes = {"GET": _GET, "HEAD": _GET, "POST": _POST}.get(scope["method"])
        if (
            routes is None
            or not routes.fullmatch(path)
            or re.match(r"[a-z]+:", unquote(path.partition("file=")[2]), re.I)
        ):
            return 404, "not found"
        if self.only_loopback and not _LOOPBACK.fullmatch(host):
            return 403, f"this server is only for this machine, not for {host}"
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None and origin.partition("://")[2] != host:
            return 403, f"requests of {origin} are refused"
        length = headers.get("content-length", "0")
        size_bytes = int(length) if length.isdecimal() else 0
        if size_bytes > self._max_body_bytes(path):
            return 413, f"The file is larger than {self.max_upload_bytes / 1e6:g} MB, the maximum of this server."
        if path.startswith(_UPLOAD) and scope["method"] == "POST" and not self.folder.has_room(size_bytes):
            return 507, "The disk of the server is full. Try again later."
        return None

    def _max_body_bytes(self, path: str) -> int:
        return self.max_upload_bytes + _MULTIPART_BYTES if path.startswith(_UPLOAD) else _MAX_JSON_BYTES


def _limited(receive: Receive, max_bytes: int) -> Receive:
    """Disconnect a client that sends more than it stated."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > max_bytes else message

    return receive_limited


def _with_headers(send: Send) -> Send:
    """Add _HEADERS to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        await send(message)

    return send_with_headers


async def _respond(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

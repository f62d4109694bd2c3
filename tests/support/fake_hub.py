"""A Hugging Face Hub on loopback for one private repository at a time: create, commit, list and download.

`with fake_hub(token) as hub:` serves in a thread; `hub.address` is for HF_ENDPOINT, `hub.files` what was committed.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

COMMIT = "c0ffee0123456789c0ffee0123456789c0ffee01"


class FakeHub:
    """The server as the tests see it.

    Attributes:
        address: of the server.
        token: what requests must carry.
        repository: `user/name` that was created; empty before.
        files: content by path.
        requests: method and path of each request.
    """

    def __init__(self, token: str) -> None:
        self.address, self.token, self.repository = "", token, ""
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []


@contextlib.contextmanager
def fake_hub(token: str = "secret") -> Iterator[FakeHub]:
    hub = FakeHub(token)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def log_message(self, *_):
        pass

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if path == "/api/repos/create":
            content = json.loads(body)
            self.hub.repository = f"{content['organization']}/{content['name']}"
            return self._json({"url": f"{self.hub.address}/{self.hub.repository}", "name": self.hub.repository})
        known = re.escape(self.hub.repository)
        if match := re.fullmatch(rf"/{known}/resolve/[^/]+/(.+)", path):
            return self._file(match[1])
        if not (match := re.fullmatch(rf"/api/models/{known}(?:/(\w+)(?:/([^/]+))?)?", path)):
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        kind, revision = match.groups()
        if kind == "revision" and revision not in ("main", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "No such revision"})
        answer = {"preupload": self._preupload, "commit": self._commit, "tree": self._tree}.get(kind, self._info)
        return self._json(answer(body))

    def _preupload(self, body):
        paths = [file["path"] for file in json.loads(body)["files"]]
        return {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}

    def _commit(self, body):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.hub.address}/{self.hub.repository}/commit/{COMMIT}", "commitOid": COMMIT}

    def _tree(self, _):
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in self.hub.files.items()
        ]

    def _info(self, _):
        siblings = [{"rfilename": path} for path in self.hub.files]
        return {"id": self.hub.repository, "modelId": self.hub.repository, "sha": COMMIT, "siblings": siblings}

    def _file(self, path):
        if path not in self.hub.files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = self.hub.files[path]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

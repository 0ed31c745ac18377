"""A hub on the loopback device that takes one model: the few requests of an upload."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


class Hub(BaseHTTPRequestHandler):
    """The server's answers; what it was sent is in the attributes of `server`."""

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._answer({"url": f"{self.server.address}/org/name"})
        elif path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif path == "/api/models/org/name/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [_mode(name) for name in files]})
        elif path == "/org/name.git/info/lfs/objects/batch":
            self._answer({"transfer": "basic", "objects": [*map(self._place, _objects(body))]})
        elif path == "/api/models/org/name/commit/main":
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"no {path}"}, 404)

    def do_PUT(self):
        body = self._body()
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._answer({})

    def _place(self, file):
        action = {"upload": {"href": f"{self.server.address}/large", "header": {}}}
        return {**file, "actions": action}

    def _commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.server.files[value["path"]] = self.server.large[value["oid"]]
        self._answer({"commitUrl": f"{self.server.address}/org/name/commit/1", "commitOid": "1"})

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def _mode(name):
    mode = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": mode, "shouldIgnore": False}


def _objects(body):
    return json.loads(body)["objects"]


@contextmanager
def hub(token: str) -> Iterator[ThreadingHTTPServer]:
    """A server with `address`, and `made`, `files` and `large`, which it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    server.token, server.made, server.files, server.large = token, [], {}, {}
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

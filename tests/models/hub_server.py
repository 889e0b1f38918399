"""A Hugging Face hub and file host on loopback: repositories are folders ``NAMESPACE/NAME``, at one revision."""

import base64
import hashlib
import json
import os
import socket
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


LFS = 100_000
"""Size from which the hub keeps a file in LFS."""


def identity(content: bytes) -> dict[str, object]:
    """What the hub's listing says of a file's content."""
    size = len(content)
    git = hashlib.sha1(f"blob {size}\0".encode() + content).hexdigest()
    lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return {"size": size, "oid": git, **({"lfs": lfs} if size >= LFS else {})}


class HubServer(ThreadingHTTPServer):
    """Serves the repositories in a folder; with a token, only to requests that carry it."""

    daemon_threads = True
    commit = COMMIT

    def __init__(self, root: Path, token: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.token = root, token
        self.files: dict[str, bytes] = {}
        """Files outside of repositories, by their path."""
        self.break_after: list[int] = []
        """Bytes after which the next answers to GET end without the rest of the file."""
        self.resets = False
        """Whether such an answer ends with a reset of the connection."""
        self.ranges: list[str] = []
        """The ranges that were requested."""
        self.requests: list[tuple[str, str]] = []
        Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/").split("/")
        self.server.requests.append((self.command, self.path))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        if (content := self.server.files.get("/".join(path))) is not None:
            return self.answer_file(content, {})
        if path[:2] == ["api", "models"] and (self.server.root / path[2] / path[3]).is_dir():
            return self.answer_api(self.server.root / path[2] / path[3], path[2:])
        if path[2:3] != ["resolve"] or not (self.server.root / path[0] / path[1]).is_dir():
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        file = self.server.root.joinpath(path[0], path[1], *path[4:])
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer_file(content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def answer_file(self, content: bytes, headers: dict[str, str]) -> None:
        headers |= {"Accept-Ranges": "bytes"}
        status, size = 200, len(content)
        if wanted := self.headers.get("Range"):
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status, content = 206, content[start:]
            headers |= {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        if self.command == "GET" and self.server.break_after:
            self.close_connection = True
            sent = content[: self.server.break_after.pop(0)]
            self.answer(status, sent, {**headers, "Content-Length": str(len(content))})
            if self.server.resets:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            return None
        return self.answer(status, content, headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0].strip("/").split("/")
        if path == ["api", "repos", "create"]:
            fields = json.loads(body)
            folder = self.server.root / fields["organization"] / fields["name"]
            folder.mkdir(parents=True, exist_ok=True)
            return self.answer_json({"url": f"{self.server.url}/{folder.parent.name}/{folder.name}"})
        if path[4:5] == ["preupload"]:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer_json({"files": modes})
        if path[4:5] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    file = self.server.root.joinpath(path[2], path[3], line["value"]["path"])
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(line["value"]["content"]))
            url = f"{self.server.url}/{path[2]}/{path[3]}/commit/{COMMIT}"
            return self.answer_json({"commitUrl": url, "commitOid": COMMIT, "success": True})
        return self.answer(404, b"", {})

    def answer_api(self, folder: Path, path: list[str]) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        if path[2:3] == ["tree"]:
            prefix = "".join(f"{part}/" for part in path[4:])
            entries = [
                {"type": "file", "path": name, **identity(file.read_bytes())}
                for name, file in zip(names, files, strict=True)
                if name.startswith(prefix)
            ]
            return self.answer_json(entries) if entries else self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        siblings = [{"rfilename": name} for name in names]
        return self.answer_json({"id": "/".join(path[:2]), "sha": COMMIT, "siblings": siblings, "private": False})

    def answer_json(self, values: object) -> None:
        self.answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

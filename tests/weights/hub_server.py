"""A hub of one machine for the tests: the few endpoints that huggingface_hub calls, repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


class Hub(ThreadingHTTPServer):
    """Repositories by name: whether private, and files by path; every push is the newest commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sha(self, name: str) -> str:
        content = self.files[name]
        return hashlib.sha1(b"".join(p.encode() + content[p] for p in sorted(content))).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub()
    Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class Answers(BaseHTTPRequestHandler):
    """One request: create, what is there, how to upload, commit, download."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/[^/]+", path)
        if found is None or found[1] not in self.server.files:
            return self._refuse(404, "RepoNotFound")
        return self._commit(found[1], body) if found[2] == "commit" else self._preupload(body)

    def _chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.server.files
        if not there:
            private = asked.get("private", asked.get("visibility") == "private")
            self.server.private[name], self.server.files[name] = bool(private), {}
        self._json({"url": f"{self.server.address}/{name}"}, 409 if there else 200)

    def _preupload(self, body: bytes) -> None:
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
        self._json({"files": files})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.server.files[name]
        for line in body.splitlines():
            key, value = (json.loads(line)[k] for k in ("key", "value"))
            if key == "header":
                self.server.commits.append(value)
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert key == "deletedFile", key
                del files[value["path"]]
        sha = self.server.sha(name)
        self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.address}/{name}/commit/{sha}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name, revision = (api[1], api[3]) if api else (file[1], file[2]) if file else ("", None)
        if name not in self.server.files:
            return self._refuse(404, "RepoNotFound")
        if self.server.private[name] and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "RepoNotFound")
        files, sha = self.server.files[name], self.server.sha(name)
        if revision not in (None, "main", sha):
            return self._refuse(404, "RevisionNotFound")
        if file:
            return self._file(files, file[3], sha)
        if api and api[2] == "tree":
            return self._json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        siblings = [{"rfilename": p} for p in files]
        return self._json({"id": name, "sha": sha, "private": self.server.private[name], "siblings": siblings})

    def _file(self, files: dict[str, bytes], path: str, sha: str) -> None:
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": sha}
        return self._answer(200, files[path], "application/octet-stream", headers)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), "application/json", {})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self._answer(status, b"{}", "application/json", {"X-Error-Code": code, "X-Error-Message": message or code})

    def _answer(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()

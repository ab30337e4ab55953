"""A Hugging Face Hub on 127.0.0.1 that keeps repositories in memory: what huggingface_hub asks of one, and no more."""

import base64
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants


class Hub:
    """Repositories by name, each with its files by path; ``asked`` lists the requests."""

    def __init__(self):
        self.repositories, self.asked, self.address = {}, [], ""

    def commit(self, name):
        """Return a number of 40 digits that changes with the files."""
        files = sorted((path, hashlib.sha1(content).hexdigest()) for path, content in self.repositories[name].items())
        return hashlib.sha1(json.dumps(files).encode()).hexdigest()

    def put(self, name, folder):
        """Take over a folder's files."""
        found = [path for path in folder.rglob("*") if path.is_file()]
        self.repositories[name] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Say nothing."""

    def _answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in hub.repositories:
            self._answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return
        files, commit = hub.repositories[name], hub.commit(name)
        if parts[0] == "api" and "tree" in parts[4:5]:
            listed = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            self._answer(listed)
        elif parts[0] == "api":
            self._answer({"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
        elif parts[2] == "resolve" and "/".join(parts[4:]) in files:
            content = files["/".join(parts[4:])]
            self._answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)
        else:
            self._answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)

    do_HEAD = do_GET  # noqa: N815 (the library's name)

    def do_POST(self):
        hub, parts, body = self.server.hub, self.path.split("?")[0].strip("/").split("/"), self._read()
        hub.asked.append(f"POST {self.path}")
        if parts[-1] == "create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            self._answer({"url": f"{hub.address}/{name}", "id": name})
        elif parts[-1] == "validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif parts[-2] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]})
        elif parts[-2] == "commit":
            name = "/".join(parts[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = hub.commit(name)
            self._answer({"commitUrl": f"{hub.address}/{name}/commit/{commit}", "commitOid": commit, "hookOutput": ""})
        else:
            self._answer({"error": self.path}, 404)


@contextmanager
def serve_hub(monkeypatch, tmp_path):
    """Serve a Hub until the end of the block, as the one that huggingface_hub asks, from an empty working folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub()
    server.hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.hub.address)
    url = server.hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

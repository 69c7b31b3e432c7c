# Copyright 2026 The maavt authors.
# SPDX-License-Identifier: Apache-2.0
"""A Hub for tests: model repositories in memory, on loopback. Enough for create_repo, upload_folder / push_to_hub and
from_pretrained by repository name (huggingface_hub 2.4). Not a git server.

    with MockHub() as hub:                      # sets HF_ENDPOINT for THIS process only if huggingface_hub is not imported yet
        env = {**os.environ, **hub.env}         # or: hand it to a subprocess
"""

import base64
import hashlib
import json
import re
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class MockHub:
    def __init__(self, user="tester"):
        self.user, self.repos, self.blobs, self.requests, self.cards = (user, {}, {}, [], [])
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def _body(self):
                n = int(self.headers.get("Content-Length") or 0)
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    data = b""
                    while True:
                        size = int(self.rfile.readline().strip(), 16)
                        chunk = self.rfile.read(size)
                        self.rfile.readline()
                        if not size:
                            return data
                        data += chunk
                return self.rfile.read(n)

            def _send(self, code, payload=b"", headers=None, head=False):
                if not isinstance(payload, bytes):
                    payload = json.dumps(payload).encode()
                    headers = {"Content-Type": "application/json", **(headers or {})}
                self.send_response(code)
                for k, v in (headers or {}).items():
                    self.send_header(k, str(v))
                if "Content-Length" not in (headers or {}):
                    self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                if not head:
                    self.wfile.write(payload)

            def _any(self, method):
                path = unquote(urlsplit(self.path).path)
                body = self._body()
                hub.requests.append((method, path))
                try:
                    code, payload, headers = hub.handle(method, path, body, self.headers)
                except KeyError as e:
                    code, payload, headers = (404, {"error": f"not found: {e}"}, {"X-Error-Code": "EntryNotFound"})
                self._send(code, payload, headers, head=method == "HEAD")

            def do_GET(self):
                self._any("GET")

            def do_HEAD(self):
                self._any("HEAD")

            def do_POST(self):
                self._any("POST")

            def do_PUT(self):
                self._any("PUT")

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.home = tempfile.mkdtemp()
        self.env = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": self.home,
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()

    # ---- the API ----
    def info(self, name):
        repo = self.repos[name]
        return {
            "id": name,
            "modelId": name,
            "sha": repo["sha"],
            "private": repo["private"],
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": f} for f in sorted(repo["files"])],
            "lastModified": "2026-01-01T00:00:00.000Z",
        }

    def handle(self, method, path, body, headers):
        if path == "/api/whoami-v2":
            return (
                200,
                {
                    "type": "user",
                    "name": self.user,
                    "auth": {"type": "access_token", "accessToken": {"role": "write"}},
                    "orgs": [],
                },
                {},
            )
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            d = json.loads(body)
            name = f"{d.get('organization') or self.user}/{d['name']}"
            if name in self.repos:
                return (409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"}, {})
            self.repos[name] = {
                "files": {},
                "sha": hashlib.sha1(name.encode()).hexdigest(),
                "private": bool(d.get("private")),
                "commits": [],
            }
            return 200, {"url": f"{self.url}/{name}", "name": name, "id": name}, {}
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = json.loads(body)["files"]
            return (
                200,
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".bin")) else "regular",
                            "shouldIgnore": False,
                            "oid": None,
                        }
                        for f in files
                    ]
                },
                {},
            )
        if m := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            d = json.loads(body)
            objs = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.url}/_lfs/{o['oid']}"}}}
                for o in d["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objs}, {}
        if m := re.fullmatch(r"/_lfs/(\w+)", path):
            self.blobs[m[1]] = body
            return 200, b"", {}
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            repo = self.repos[m[1]]
            for line in body.decode().splitlines():
                item = json.loads(line)
                v = item["value"]
                if item["key"] == "header":
                    repo["commits"].append(v["summary"])
                elif item["key"] == "file":
                    repo["files"][v["path"]] = base64.b64decode(v["content"])
                elif item["key"] == "lfsFile":
                    repo["files"][v["path"]] = self.blobs[v["oid"]]
                elif item["key"] == "deletedFile":
                    repo["files"].pop(v["path"], None)
            repo["sha"] = hashlib.sha1(f"{m[1]}{len(repo['commits'])}{time.time()}".encode()).hexdigest()
            return (
                200,
                {
                    "success": True,
                    "commitOid": repo["sha"],
                    "commitUrl": f"{self.url}/{m[1]}/commit/{repo['sha']}",
                    "hookOutput": "",
                },
                {},
            )
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            repo, prefix = self.repos[m[1]], (m[3] + "/" if m[3] else "")
            return (
                200,
                [
                    {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for f, c in repo["files"].items()
                    if f.startswith(prefix)
                ],
                {},
            )
        if m := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
            return 200, self.info(m[1]), {}
        if m := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if m[1] not in self.repos:
                return (404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            repo = self.repos[m[1]]
            if m[3] not in repo["files"]:
                return (
                    404,
                    {"error": "Entry not found"},
                    {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo["sha"]},
                )
            data = repo["files"][m[3]]
            return (
                200,
                data,
                {
                    "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
                    "X-Repo-Commit": repo["sha"],
                    "Content-Length": len(data),
                },
            )
        raise KeyError(path)

"""A Hugging Face Hub on 127.0.0.1 that keeps its repositories in memory: what pushing and loading ask of one, no more.

with LoopbackHub() as hub:
    ...  # a process with HF_ENDPOINT=hub.url and HF_HUB_DISABLE_XET=1 set before it imports huggingface_hub
    hub.files("my-org/care-tiny")
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

REPO = r"/api/(?P<kind>model|dataset)s/(?P<repo_id>[^/]+/[^/]+)"
ROUTES = [
    ("POST", r"/api/repos/create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", rf"{REPO}/preupload/[^/]+", "preupload"),
    ("POST", r"/(datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("POST", rf"{REPO}/branch/(?P<branch>[^/]+)", "create_branch"),
    ("POST", rf"{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", rf"{REPO}(/revision/(?P<revision>[^/]+))?", "repo_info"),
    ("GET", rf"{REPO}/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", "tree"),
    ("POST", rf"{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    # Last, since a model's address starts with nothing that tells it from the others.
    ("GET", r"/((?P<kind>dataset)s/)?(?P<repo_id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class Commit(NamedTuple):
    sha: str
    files: dict[str, bytes]


class HubError(Exception):
    def __init__(self, status: int, code: str, **more: str):
        super().__init__(code)
        self.status, self.code, self.more = status, code, more


class LoopbackHub(ThreadingHTTPServer):
    """
    Attributes:
        url: what HF_ENDPOINT is to be set to.
        history: (kind, repo id) -> commits of its main branch, oldest first; the first one is empty.
        branches: (kind, repo id) -> commits of its other branches and of its pull requests, by name.
        private: (kind, repo id) of the private ones.
        objects: sha256 -> what was uploaded through LFS.
        token: the one that writing needs.
        open: while it is not set, uploads through LFS wait; `waiting` is set when the first one does.
    """

    def __init__(self, token: str = "dummy"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.token = token
        self.history: dict[tuple[str, str], list[Commit]] = {}
        self.branches: dict[tuple[str, str], dict[str, list[Commit]]] = {}
        self.private: set[tuple[str, str]] = set()
        self.objects: dict[str, bytes] = {}
        self.open, self.waiting = threading.Event(), threading.Event()
        self.open.set()

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()

    def commits(self, kind: str, repo_id: str, branch: str = "main") -> list[Commit]:
        """Of a branch, oldest first."""
        if (kind, repo_id) not in self.history:
            raise HubError(404, "RepoNotFound")
        branches = {"main": self.history[kind, repo_id], **self.branches.get((kind, repo_id), {})}
        if branch not in branches:
            raise HubError(404, "RevisionNotFound")
        return branches[branch]

    def at(self, kind: str, repo_id: str, revision: str = "main") -> Commit:
        """A commit, by its hash or the branch that it is the newest of."""
        others = self.branches.get((kind, repo_id), {}).values()
        for commit in (commit for branch in (self.commits(kind, repo_id), *others) for commit in branch):
            if commit.sha == revision:
                return commit
        return self.commits(kind, repo_id, revision)[-1]

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """path -> content."""
        return self.at(kind, repo_id, revision).files

    def add_commit(self, kind: str, repo_id: str, files: dict[str, bytes], branch: str = "main") -> str:
        commits = self.history.setdefault((kind, repo_id), [])
        commits = commits if branch == "main" else self.branches[kind, repo_id][branch]
        sha = hashlib.sha1(f"{kind} {repo_id} {branch} {len(commits)}".encode()).hexdigest()
        commits.append(Commit(sha, files))
        return sha

    def add_branch(self, kind: str, repo_id: str, branch: str) -> None:
        self.branches.setdefault((kind, repo_id), {})[branch] = list(self.commits(kind, repo_id))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, each answer waits for a delayed acknowledgement
    server: LoopbackHub

    def dispatch(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        try:
            # To the storage behind the Hub its address suffices, here too.
            open_to_all = method == "GET" or path.startswith("/lfs/")
            if not open_to_all and self.headers.get("Authorization") != f"Bearer {self.server.token}":
                raise HubError(401, "Unauthorized")
            for expected, pattern, name in ROUTES:
                if method == expected and (match := re.fullmatch(pattern, path)):
                    found = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    answer, headers = getattr(self, name)(body, **found), {}
                    break
            else:
                raise HubError(404, f"no such endpoint: {method} {path}")
            status = 200
            if isinstance(answer, tuple):
                answer, headers = answer
        except HubError as error:
            answer, headers, status = {"error": error.code, **error.more}, {"X-Error-Code": error.code}, error.status
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = dispatch

    def log_message(self, *arguments) -> None:
        """Nothing on the console."""

    # ---- writing ----

    def create_repo(self, body: bytes):
        asked = json.loads(body)
        kind, repo_id = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        url = f"{self.server.url}/{prefix}{repo_id}"
        if (kind, repo_id) in self.server.history:
            raise HubError(409, "RepoExists", url=url)
        self.server.add_commit(kind, repo_id, {})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add((kind, repo_id))
        return {"id": repo_id, "name": repo_id, "url": url}

    def create_branch(self, body: bytes, kind: str, repo_id: str, branch: str):
        if branch == "main" or branch in self.server.branches.get((kind, repo_id), {}):
            raise HubError(409, "BranchExists")
        self.server.add_branch(kind, repo_id, branch)
        return {}

    def validate_yaml(self, body: bytes):
        return {"errors": [], "warnings": []}

    def preupload(self, body: bytes, kind: str, repo_id: str):
        self.server.at(kind, repo_id)
        paths = [file["path"] for file in json.loads(body)["files"]]
        binary = (".safetensors", ".parquet")
        modes = {path: "lfs" if path.endswith(binary) else "regular" for path in paths}
        return {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]}

    def lfs_batch(self, body: bytes):
        return {
            "transfer": "basic",
            "objects": [
                {**asked, "actions": {"upload": {"href": f"{self.server.url}/lfs/{asked['oid']}"}}}
                for asked in json.loads(body)["objects"]
            ],
        }

    def lfs_upload(self, body: bytes, oid: str):
        if hashlib.sha256(body).hexdigest() != oid:
            raise HubError(400, f"{len(body)} bytes that are not object {oid}")
        if not self.server.open.is_set():
            self.server.waiting.set()
            self.server.open.wait(60)
        self.server.objects[oid] = body
        return {}

    def commit(self, body: bytes, kind: str, repo_id: str, revision: str):
        parent = self.server.commits(kind, repo_id, revision)[-1]
        files = dict(parent.files)
        for line in body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "header":
                if value.get("parentCommit", parent.sha) != parent.sha:
                    raise HubError(412, "not the newest commit")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile" and value["oid"] in self.server.objects:
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                raise HubError(400, f"a line of the commit: {key} {value}")
        address, found = f"{self.server.url}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}", {}
        if parse_qs(urlsplit(self.path).query).get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in self.server.branches.get((kind, repo_id), {}))
            revision, found = f"refs/pr/{number}", {"pullRequestUrl": f"{address}/discussions/{number}"}
            self.server.add_branch(kind, repo_id, revision)
        sha = self.server.add_commit(kind, repo_id, files, revision)
        return {"commitOid": sha, "commitUrl": f"{address}/commit/{sha}", **found}

    # ---- reading ----

    def repo_info(self, body: bytes, kind: str, repo_id: str, revision: str = "main"):
        commit = self.server.at(kind, repo_id, revision)
        private = (kind, repo_id) in self.server.private
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return {"id": repo_id, "sha": commit.sha, "private": private, "tags": [], "siblings": siblings}

    def tree(self, body: bytes, kind: str, repo_id: str, revision: str, path: str = ""):
        entries = _entries(self.server.files(repo_id, revision, kind))
        if path and path not in entries:
            raise HubError(404, "EntryNotFound")
        below = {name: entry for name, entry in entries.items() if name.startswith(path and f"{path}/")}
        if parse_qs(urlsplit(self.path).query).get("recursive") != ["true"]:
            below = {name: entry for name, entry in below.items() if name.rpartition("/")[0] == path}
        return list(below.values())

    def paths_info(self, body: bytes, kind: str, repo_id: str, revision: str):
        entries = _entries(self.server.files(repo_id, revision, kind))
        return [entries[path] for path in parse_qs(body.decode())["paths"] if path in entries]

    def resolve(self, body: bytes, repo_id: str, revision: str, path: str, kind: str = "model"):
        commit = self.server.at(kind, repo_id, revision)
        if path not in commit.files:
            raise HubError(404, "EntryNotFound")
        content = commit.files[path]
        return content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit.sha}


def _entries(files: dict[str, bytes]) -> dict[str, dict]:
    """path -> what the Hub tells of it, folders included."""
    entries = {}
    for path, content in sorted(files.items()):
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha256(folder.encode()).hexdigest()}
        oid = hashlib.sha256(content).hexdigest()
        entries[path] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    return entries

"""
A stand-in for the Hub on this machine: the endpoints that huggingface_hub calls to make a repository, send files over
git-LFS, commit, open a pull request, and read files back. Run with `HF_ENDPOINT` at its `url`.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from tests.http_server import LocalServer, QuietHandler


TOKENS = {"hf_write": "write", "hf_read": "read"}
LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other")
LARGE = 20_000  # bytes from which a file goes over LFS, besides weights


class Repository:
    def __init__(self, private: bool):
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}  # commit to its files
        self.refs: dict[str, str] = {}
        self.pull_requests: list[str] = []
        self.commit("main", {})

    def commit(self, ref: str, files: dict[str, bytes]) -> str:
        state = json.dumps([len(self.commits), ref, sorted(files)]).encode()
        oid = hashlib.sha1(state).hexdigest()
        self.commits[oid], self.refs[ref] = files, oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs.get(revision, revision)]

    def open_pull_request(self, title: str) -> str:
        self.pull_requests.append(title)
        ref = f"refs/pr/{len(self.pull_requests)}"
        self.refs[ref] = self.refs["main"]
        return ref


class HubServer(LocalServer):
    """
    Repositories by id (`datasets/me/rows` for those of rows), LFS objects by SHA-256, and every request as
    `(method, path)`. With `uses_lfs` off, all files are plain ones; what is in `ignored` is left out of commits.

    Args:
        on_put (`Callable[[str], bool]`, *optional*):
            Called with the SHA-256 of an object that arrives; False hangs up without keeping it.
    """

    uses_lfs = True

    def __init__(self, on_put: Callable[[str], bool] = lambda oid: True):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.on_put, self.ignored = on_put, set()
        lock, hub = threading.Lock(), self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, method: str) -> None:
                body = self.read_body()
                path = urlsplit(self.path)
                with lock:
                    hub.requests.append((method, path.path))
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                request = Request(method, unquote(path.path), path.path, parse_qs(path.query), token, body)
                if method == "PUT":  # may wait, and must not hold up the rest
                    status, reply = hub.put(request)
                else:
                    with lock:
                        status, reply = hub.reply(request)
                if status is None:
                    self.close_connection = True
                    return
                headers, content = ({}, reply) if not isinstance(reply, tuple) else reply
                self.send(status, content if isinstance(content, bytes) else json.dumps(content).encode(), headers)

            def read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_GET, do_POST, do_PUT, do_HEAD = (
                lambda self, method=method: self.answer(method) for method in ("GET", "POST", "PUT", "HEAD")
            )

        super().__init__(Handler)

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path in self.requests)

    def put(self, request):
        oid = request.path.removeprefix("/lfs/")
        if not self.on_put(oid):
            return None, None
        assert hashlib.sha256(request.body).hexdigest() == oid
        self.objects[oid] = request.body
        return 200, {}

    def reply(self, request):
        path = request.path.replace("/api/datasets/", "/api/models/datasets/")
        for method, pattern, function in ROUTES:
            if request.method in method and (match := re.fullmatch(pattern, path)):
                if request.token and request.token not in TOKENS:
                    return 401, ({"X-Error-Message": "Invalid credentials in Authorization header"}, {})
                return function(self, request, *match.groups())
        return 404, ({"X-Error-Code": "EntryNotFound"}, {"error": f"no {request.method} {request.path}"})

    def repository(self, request, repo_id: str) -> Repository | None:
        found = self.repositories.get(repo_id)
        return found if found and (not found.private or request.token) else None


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, in the place of the Hub for this process, and a token that may write."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made anew with the address of now
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        close_session()
        yield server
    close_session()


def environment(server: HubServer, folder, token: str | None = "hf_write") -> dict[str, str]:
    """Variables for another process that shall use the stand-in, with its caches in a folder."""
    import os

    variables = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    variables |= {"HF_HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"}
    variables.pop("HF_TOKEN", None)
    return variables | ({"HF_TOKEN": token} if token else {})


class Request:
    def __init__(self, method, path, raw_path, query, token, body):
        self.method, self.path, self.raw_path, self.query, self.token, self.body = (
            method, path, raw_path, query, token, body,
        )  # fmt: skip

    def json(self):
        return json.loads(self.body or b"{}")


def no_repository():
    return 404, ({"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, {})


def whoami(hub, request):
    if not request.token:
        return 401, {}
    access = {"displayName": "test", "role": TOKENS[request.token]}
    return 200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token", "accessToken": access}}


def create(hub, request):
    wanted = request.json()
    owner = wanted.get("organization") or "me"
    repo_id = f"{'datasets/' if wanted.get('type') == 'dataset' else ''}{owner}/{wanted['name']}"
    if owner != "me" or TOKENS.get(request.token) != "write":
        return 403, ({"X-Error-Message": f"You don't have the rights to create a model under {owner}"}, {})
    if repo_id in hub.repositories:
        return 409, {"url": f"{hub.url}/{repo_id}"}
    private = wanted.get("private", wanted.get("visibility") == "private")
    hub.repositories[repo_id] = Repository(private)
    return 200, {"url": f"{hub.url}/{repo_id}", "name": repo_id, "id": "0"}


def validate_yaml(hub, request):
    match = re.match(r"---\n(.*?)\n---", request.json()["content"], re.S)
    license = (yaml.safe_load(match[1]) if match else {}).get("license")
    if license is not None and license not in LICENSES:
        return 400, {"errors": [{"message": f'"license" must be one of {", ".join(LICENSES)}'}], "warnings": []}
    return 200, {"errors": [], "warnings": []}


def info(hub, request, repo_id, revision="main"):
    found = hub.repository(request, repo_id)
    if found is None:
        return no_repository()
    if found.refs.get(revision, revision) not in found.commits:
        return 404, ({"X-Error-Code": "RevisionNotFound"}, {})
    files = [{"rfilename": name} for name in found.files(revision)]
    sha = found.refs.get(revision, revision)
    return 200, {"id": repo_id, "modelId": repo_id, "sha": sha, "private": found.private, "tags": [], "siblings": files}


def preupload(hub, request, repo_id, revision):
    found = hub.repository(request, repo_id)
    if found is None:
        return no_repository()
    there = found.files(revision)
    ignored = hub.ignored | {*request.json().get("gitIgnore", there.get(".gitignore", b"").decode()).split()}
    files = []
    for file in request.json()["files"]:
        large = hub.uses_lfs and (file["path"].endswith(".safetensors") or file["size"] >= LARGE)
        oid = oid_of(there[file["path"]], large) if file["path"] in there else None
        files.append(
            {"path": file["path"], "uploadMode": "lfs" if large else "regular", "oid": oid}
            | {"shouldIgnore": file["path"] in ignored}
        )
    return 200, {"files": files}


def oid_of(content: bytes, large: bool) -> str:
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_batch(hub, request, repo_id):
    objects = []
    for wanted in request.json()["objects"]:
        href = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
        objects.append({**wanted} if wanted["oid"] in hub.objects else {**wanted, "actions": href})
    return 200, {"transfer": "basic", "objects": objects}


def commit(hub, request, repo_id, revision):
    found = hub.repository(request, repo_id)
    if found is None:
        return no_repository()
    if TOKENS.get(request.token) != "write" or not (
        repo_id.removeprefix("datasets/").startswith("me/") or "create_pr" in request.query
    ):
        return 403, ({"X-Error-Message": "Forbidden: pass create_pr=1 to open a pull request"}, {})
    files = dict(found.files(revision))
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif operation["key"] == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
        else:
            assert operation["key"] == "deletedFile"
            del files[value["path"]]
    url = None
    if "create_pr" in request.query:
        revision = found.open_pull_request(header["value"]["summary"])
        url = f"{hub.url}/{repo_id}/discussions/{revision.rpartition('/')[2]}"
    oid = found.commit(revision, files)
    return 200, {"commitUrl": f"{hub.url}/{repo_id}/commit/{oid}", "commitOid": oid, "pullRequestUrl": url}


def branch(hub, request, repo_id, name):
    found = hub.repository(request, repo_id)
    if name in found.refs:
        return 409, {}
    found.refs[name] = found.refs["main"]
    return 200, {}


def tree(hub, request, repo_id, revision, folder=None):
    found = hub.repository(request, repo_id)
    if found is None:
        return no_repository()
    files = {name: data for name, data in found.files(revision).items() if not folder or name.startswith(f"{folder}/")}
    if folder and not files:
        return 404, ({"X-Error-Code": "EntryNotFound"}, {})
    return 200, [
        {"type": "file", "path": name, "size": len(data), "oid": oid_of(data, False)} for name, data in files.items()
    ]


def discussion(hub, request, repo_id):
    ref = hub.repository(request, repo_id).open_pull_request(request.json()["title"])
    return 200, {"num": int(ref.rpartition("/")[2])}


def discussion_details(hub, request, repo_id, number):
    pull = {"isPullRequest": True, "changes": {"base": "refs/heads/main"}, "filesWithConflicts": []}
    common = {"num": int(number), "title": "", "status": "draft", "author": {"name": "me"}, "events": [], **pull}
    return 200, {**common, "repo": {"name": repo_id, "type": "model"}, "createdAt": "2026-01-01T00:00:00.000Z"}


def resolve(hub, request, repo_id, revision, name):
    found = hub.repository(request, repo_id)
    if found is None:
        return no_repository()
    commit = found.refs.get(revision, revision)
    if commit not in found.commits:
        return 404, ({"X-Error-Code": "RevisionNotFound"}, {})
    if name not in found.commits[commit]:
        return 404, ({"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, {})
    content = found.commits[commit][name]
    return 200, ({"X-Repo-Commit": commit, "ETag": f'"{oid_of(content, True)}"'}, content)


REPO, REVISION = r"((?:datasets/)?[\w.-]+/[\w.-]+)", r"(refs/pr/\d+|[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", f"/api/models/{REPO}", info),
    ("GET", f"/api/models/{REPO}/revision/{REVISION}", info),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", preupload),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", commit),
    ("POST", f"/api/models/{REPO}/branch/(.+)", branch),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}", tree),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}/(.+)", tree),
    ("POST", f"/api/models/{REPO}/discussions", discussion),
    ("GET", f"/api/models/{REPO}/discussions/(\\d+)", discussion_details),
    ("GET HEAD", f"/{REPO}/resolve/{REVISION}/(.+)", resolve),
]

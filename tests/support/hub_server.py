"""A model hub on 127.0.0.1: folders on disk served by as much of the hub's protocol as clients use.

Enough for huggingface_hub 2.4 (info, tree, paths-info, resolve) and `datasets.load_dataset`. Speaks
neither Xet nor uploads. huggingface_hub reads its environment when it is imported, so clients run
as processes of their own: `client_environment` says with which variables.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".gguf", ".pt")
TOKEN = "hf_" + "t" * 34
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?)?"
)
_RESOLVE = re.compile(
    r"/(?P<kind>datasets/)?(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)


@dataclass
class Repository:
    """One repository: its commits (sha -> folder), the last of which is ``main``."""

    commits: dict[str, Path]
    access: Literal["public", "gated", "private"] = "public"

    def find_commit(self, revision: str) -> str | None:
        """The full sha of a branch, a sha or the beginning of one."""
        if revision == "main":
            return list(self.commits)[-1]
        found = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        return found[0] if found else None


@dataclass
class Hub:
    """The running server's handle: add repositories, read what was asked for, make it silent."""

    endpoint: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # (method, path)
    silent_on: str | None = None  # requests whose path contains this are never answered

    def add(
        self,
        repo: str,
        *folders: Path,
        kind: Literal["models", "datasets"] = "models",
        access: Literal["public", "gated", "private"] = "public",
    ) -> list[str]:
        """Serve ``folders`` as the successive commits of ``repo``; returns their shas."""
        shas = [hashlib.sha1(f"{repo}@{i}".encode()).hexdigest() for i in range(len(folders))]
        commits = dict(zip(shas, folders, strict=True))
        self.repositories[kind, repo] = Repository(commits, access)
        return shas

    def count(self, containing: str = "", method: str | None = None) -> int:
        """Requests so far whose path contains ``containing``."""
        return sum(
            containing in path and method in (None, asked) for asked, path in list(self.requests)
        )


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub for the length of the block; afterwards its port refuses connections."""
    closing = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub = Hub(endpoint=f"http://127.0.0.1:{server.server_port}")
    server.hub, server.closing = hub, closing  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def client_environment(endpoint: str, home: Path, **extra: str) -> dict[str, str]:
    """Variables for a client process: this hub, a cache of its own, and nothing inherited.

    ``extra`` adds to them: ``HF_TOKEN=TOKEN``, ``HF_HUB_OFFLINE="1"``.
    """
    dropped = ("HF_", "HUGGING", "TRANSFORMERS_", "http_proxy", "https_proxy", "all_proxy")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and name.lower() not in dropped
    }
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **extra,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else keep-alive answers wait 40 ms for an ACK

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Not to stderr: `Hub.requests` has them."""

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        # Split before unquoting: a revision may hold an escaped slash (refs%2Fpr%2F1).
        hub.requests.append((self.command, url.path))
        if hub.silent_on is not None and hub.silent_on in url.path:
            self.server.closing.wait()  # type: ignore[attr-defined]
            self.close_connection = True
        elif url.path in ("", "/"):
            self._send(200, b"hub", {})
        elif match := _API.fullmatch(url.path):
            self._answer_api(hub, match, parse_qs(url.query), body)
        elif match := _RESOLVE.fullmatch(url.path):
            self._answer_resolve(hub, match)
        else:
            self._refuse(404, "EntryNotFound", "no such page")

    def _answer_api(
        self, hub: Hub, match: re.Match[str], query: dict[str, list[str]], body: bytes
    ) -> None:
        revision = unquote(match["revision"] or "main")
        if (found := self._admit(hub, match["kind"], match["repo"], revision)) is None:
            return
        repository, sha, folder = found
        recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
        if match["what"] == "tree":
            entries = _list_tree(folder, unquote(match["path"] or ""), recursive)
            if entries is None:
                self._refuse(404, "EntryNotFound", "no such folder")
            else:
                self._send_json(entries)
        elif match["what"] == "paths-info":
            paths = (
                json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            )
            self._send_json([e for path in paths if (e := _describe_path(folder, path))])
        elif match["what"] == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": sha}
            self._send_json({"branches": [branch], "converts": [], "tags": []})
        else:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            self._send_json(
                {
                    "id": match["repo"],
                    "sha": sha,
                    "private": repository.access == "private",
                    "gated": "manual" if repository.access == "gated" else False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                    "siblings": [
                        {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size}
                        for path in files
                    ],
                }
            )

    def _answer_resolve(self, hub: Hub, match: re.Match[str]) -> None:
        kind = "datasets" if match["kind"] else "models"
        found = self._admit(hub, kind, match["repo"], unquote(match["revision"]))
        if found is None:
            return
        repository, sha, folder = found
        if repository.access == "gated" and not self._has_token():
            self._refuse(403, "GatedRepo", "Access to this repository is restricted")
            return
        path = folder / unquote(match["path"])
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
            return
        content = path.read_bytes()
        etag = _hash_lfs(content) if path.name.endswith(LFS_SUFFIXES) else _hash_git(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, content, headers)
            return
        start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
        self._send(206, content[start : end + 1], headers)

    def _admit(
        self, hub: Hub, kind: str, repo: str, revision: str
    ) -> tuple[Repository, str, Path] | None:
        """The repository and commit asked for, or None after having refused."""
        repository = hub.repositories.get((kind, repo))
        if repository is None or (repository.access == "private" and not self._has_token()):
            # As the real hub: who shows no token does not learn whether it exists.
            status = 404 if self._has_token() else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
            return None
        sha = repository.find_commit(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, sha, repository.commits[sha]

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        codes = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._send(status, json.dumps({"error": message}).encode(), codes)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _list_tree(folder: Path, path: str, recursive: bool) -> list[dict[str, Any]] | None:
    if not (folder / path).is_dir():
        return None
    found = (folder / path).rglob("*") if recursive else (folder / path).iterdir()
    entries = [_describe_path(folder, str(item.relative_to(folder))) for item in sorted(found)]
    return [entry for entry in entries if entry is not None]


def _describe_path(folder: Path, path: str) -> dict[str, Any] | None:
    full = folder / path
    if full.is_dir():
        return {"type": "directory", "path": path, "oid": _hash_git(path.encode()), "size": 0}
    if not full.is_file():
        return None
    content = full.read_bytes()
    entry = {"type": "file", "path": path, "oid": _hash_git(content), "size": len(content)}
    if path.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": _hash_lfs(content), "size": len(content), "pointerSize": 130}
    return entry


def _hash_git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _hash_lfs(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

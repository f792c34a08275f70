"""The reference's distribution at every scored token of a text, kept on disk for the candidates.

What goes into the output head and the head itself give the logits again, in width / vocabulary of
their space; a model that changes its logits behind the head has them kept whole, in float32. A
folder of the cache holds one distribution: chunks of at most 64 MiB, the head and a manifest. It is
named by what determines it and by what it holds, appears whole, and is never changed. The top of
this file is torch-free.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import InputError
from harness.machine.cache import make_room, mark_used, remove
from harness.machine.places import cache_folder

if TYPE_CHECKING:
    import torch

FORMAT = 1
_CHUNK_BYTES = 64 << 20
_NAME = re.compile("[0-9a-f]{32}-[0-9a-f]{16}")
_HEAD, _MANIFEST = "head.safetensors", "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Frozen):
    """What each row holds: ``states`` (rows, width) for a head, or ``logits`` (rows, vocabulary).

    ``reason`` says why it is logits. ``matmul`` is torch's float32 matmul precision, without which
    a head gives other logits again.
    """

    kind: Literal["states", "logits"]
    width: int
    vocabulary: int
    dtype: str
    item_bytes: int
    head_bytes: int
    matmul: str
    reason: str | None = None

    def count_bytes(self, rows: int) -> int:
        """Bytes of ``rows`` rows and the head, but for a few hundred per file."""
        return rows * self.width * self.item_bytes + self.head_bytes


class StoredFile(_Frozen):
    name: str
    rows: int
    bytes: int
    sha256: str


class Manifest(_Frozen):
    """All there is to know of one stored distribution."""

    format: int
    created: str
    layout: Layout
    rows: int
    chunks: tuple[StoredFile, ...]
    head: StoredFile | None
    facts: dict[str, Any]

    @property
    def files(self) -> tuple[StoredFile, ...]:
        return self.chunks if self.head is None else (*self.chunks, self.head)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def find_damage(name: str) -> str | None:
    """What is wrong with a stored distribution, every byte read; None where it is whole.

    A whole one counts as used: who asks is about to read it.
    """
    try:
        manifest = _read_manifest(name)
        for file in manifest.files:
            _check_file(name, file)
    except _Damage as damage:
        return str(damage)
    mark_used(_folder() / name)
    return None


class DistributionWriter:
    """Takes rows as they are computed; a context manager that leaves nothing unfinished behind."""

    def __init__(self, layout: Layout, rows: int, facts: Mapping[str, Any], what: str) -> None:
        """Make room for ``rows`` rows of ``layout``; ``facts`` are all that determines them.

        Raises `InputError` where they are too large for the cache or the disk.
        """
        advice = "score fewer tokens (`limit:`) or a shorter text"
        make_room(layout.count_bytes(rows), f"the reference's distribution over {what}", advice)
        self._layout, self._facts, self._expected = layout, dict(facts), rows
        text = json.dumps([FORMAT, layout.kind, self._facts], sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._chunk_rows = max(1, _CHUNK_BYTES // (layout.width * layout.item_bytes))
        self._waiting: list[torch.Tensor] = []
        self._chunks: list[StoredFile] = []
        self._head: StoredFile | None = None

    def __enter__(self) -> DistributionWriter:
        with _explain_write():
            _folder().mkdir(parents=True, exist_ok=True)
            self._partial = _folder() / f".{self._key}-{uuid.uuid4().hex[:8]}"
            self._partial.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def append(self, rows: torch.Tensor) -> None:
        """Keep ``rows`` (n, width) behind the ones before."""
        import torch

        while len(rows):
            space = self._chunk_rows - sum(map(len, self._waiting))
            # A copy: on a CPU a part would keep the whole, and inference tensors are the model's.
            self._waiting.append(rows[:space].to("cpu", copy=True))
            rows = rows[space:]
            if sum(map(len, self._waiting)) == self._chunk_rows:
                self._write_chunk(torch.cat(self._waiting))

    def keep_head(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """The output head that turns states into logits: (vocabulary, width), (vocabulary,)."""
        tensors = {"weight": weight.detach()}
        if bias is not None:
            tensors["bias"] = bias.detach()
        self._head = self._write(_HEAD, tensors, rows=len(weight))

    def finish(self) -> tuple[str, int]:
        """Put the distribution in its place; returns its name and its bytes."""
        import torch

        if self._waiting:
            self._write_chunk(torch.cat(self._waiting))
        manifest = Manifest(
            format=FORMAT,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            layout=self._layout,
            rows=sum(chunk.rows for chunk in self._chunks),
            chunks=tuple(self._chunks),
            head=self._head,
            facts=self._facts,
        )
        assert manifest.rows == self._expected, (manifest.rows, self._expected)
        content = hashlib.sha256(" ".join(file.sha256 for file in manifest.files).encode())
        name = f"{self._key}-{content.hexdigest()[:16]}"
        with _explain_write():
            (self._partial / _MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
            self._put_in_place(_folder() / name)
        return name, manifest.bytes

    def _put_in_place(self, place: Path) -> None:
        if place.is_dir():
            if find_damage(place.name) is None:
                return  # the very same content
            remove(place)
        try:
            os.rename(self._partial, place)
        except OSError:
            if not place.is_dir():  # else another run was first, with the same content
                raise

    def _write_chunk(self, rows: torch.Tensor) -> None:
        self._waiting = []
        name = f"{self._layout.kind}-{len(self._chunks):05}.safetensors"
        self._chunks.append(self._write(name, {self._layout.kind: rows}, len(rows)))

    def _write(self, name: str, tensors: dict[str, torch.Tensor], rows: int) -> StoredFile:
        from safetensors.torch import save_file

        path = self._partial / name
        with _explain_write():
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
            # safetensors lets only the owner read; a cache may be shared.
            path.chmod(self._partial.stat().st_mode & 0o666)
            with path.open("rb") as file:
                sha256 = _hash(file)
            return StoredFile(name=name, rows=rows, bytes=path.stat().st_size, sha256=sha256)


class StoredDistribution:
    """Reads what `DistributionWriter` kept, a chunk in memory at a time, the head on a device."""

    def __init__(self, name: str, device: str) -> None:
        """Raises `InputError` where the distribution is not there or not whole."""
        self.name, self._device = name, device
        with _explain_damage(name):
            self.manifest = _read_manifest(name)
            self._head = self._load_head()
        self.layout = self.manifest.layout
        self._chunk: tuple[int, torch.Tensor] | None = None

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (n, width), on the device, in the dtype they were kept in."""
        import torch

        size = self.manifest.chunks[0].rows
        parts = []
        while start < stop:
            index, first = divmod(start, size)
            last = min(size, first + stop - start)
            parts.append(self._read_chunk(index)[first:last])
            start += last - first
        return torch.cat(parts).to(self._device)

    def logits_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The reference's logits (n, vocabulary) of rows (n, width), as its own cell has them."""
        import torch
        from torch.nn.functional import linear

        if self._head is None:
            return rows
        # A candidate in TF32 must not lend the reference its rounding, nor the other way round.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.layout.matmul)
        try:
            return linear(rows[None], self._head["weight"], self._head.get("bias"))[0]
        finally:
            torch.set_float32_matmul_precision(before)

    def _load_head(self) -> dict[str, torch.Tensor] | None:
        from safetensors.torch import load_file

        head = self.manifest.head
        if head is None:
            return None
        _check_file(self.name, head)
        return dict(load_file(_folder() / self.name / head.name, device=self._device))

    def _read_chunk(self, index: int) -> torch.Tensor:
        from safetensors.torch import load

        if self._chunk is None or self._chunk[0] != index:
            self._chunk = None
            chunk = self.manifest.chunks[index]
            with _explain_damage(self.name), _open(self.name, chunk) as file:
                content = file.read()
                _check_hash(chunk, hashlib.sha256(content).hexdigest())
            mark_used(_folder() / self.name)
            self._chunk = index, load(content)[self.layout.kind]
        return self._chunk[1]


class _Damage(Exception):  # noqa: N818 - a state of the cache
    """Says in words what of a stored distribution is missing or wrong."""


def _folder() -> Path:
    return cache_folder() / "distributions"


def _read_manifest(name: str) -> Manifest:
    if not _NAME.fullmatch(name):
        raise _Damage(f"{name!r} is no name of one")
    path = _folder() / name / _MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise _Damage("it is not there") from error
    except (OSError, ValidationError) as error:
        raise _Damage(f"its {_MANIFEST} cannot be read") from error
    if manifest.format != FORMAT:
        raise _Damage(f"its format is {manifest.format}, expected {FORMAT}")
    return manifest


def _check_file(name: str, file: StoredFile) -> None:
    with _open(name, file) as opened:
        _check_hash(file, _hash(opened))


def _open(name: str, file: StoredFile) -> IO[bytes]:
    """The file, opened; its size checked, because a truncated one needs no reading."""
    path = _folder() / name / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise _Damage(f"{file.name} has {size} of {file.bytes} bytes")
        return path.open("rb")
    except OSError as error:
        raise _Damage(f"{file.name} cannot be read: {error.strerror}") from error


def _hash(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _check_hash(file: StoredFile, sha256: str) -> None:
    if sha256 != file.sha256:
        raise _Damage(f"{file.name} is not what was written (its SHA-256 differs)")


@contextlib.contextmanager
def _explain_damage(name: str) -> Iterator[None]:
    try:
        yield
    except _Damage as damage:
        raise InputError(
            f"the reference's distribution {name[:8]} is damaged or gone: {damage}. Run again: the "
            "reference is then measured anew (`harness cache clear distributions` removes them all)"
        ) from damage


@contextlib.contextmanager
def _explain_write() -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot keep the reference's distribution in {_folder()}: "
            f"{getattr(error, 'strerror', None) or error}; "
            "set PRECISION_HARNESS_CACHE to a folder that can be written"
        ) from error

"""The reference's distribution at every scored token of a text, kept on disk for the candidates.

The states that go into the output head, and the head itself, give the logits again in width /
vocabulary of their space. A model that changes its logits behind the head has them kept whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from harness.engines.base import Outputs, PlainHead
from harness.errors import InputError
from harness.machine.cache import make_room, mark_used, remove
from harness.scoring.distribution_folder import (
    HEAD,
    MANIFEST,
    ROWS,
    Layout,
    Manifest,
    folder_of,
    hash_files,
    read_manifest,
)

_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def choose_layout(outputs: Outputs) -> tuple[Layout, PlainHead | None]:
    """How a model's distribution is kept, and the output head that goes with hidden states."""
    found = outputs.find_plain_head()
    head, reason = (None, found) if isinstance(found, str) else (found, None)
    layout = Layout(
        kind="states" if head else "logits",
        width=head.weight.shape[1] if head else outputs.vocabulary,
        vocabulary=outputs.vocabulary,
        dtype=str(head.weight.dtype if head else outputs.dtype).removeprefix("torch."),
        matmul=torch.get_float32_matmul_precision(),
        reason=reason,
    )
    return layout, head


class DistributionWriter:
    """Takes rows as they are computed; a context manager that leaves nothing unfinished behind."""

    def __init__(
        self, layout: Layout, rows: int, head: PlainHead | None, facts: Mapping[str, Any], what: str
    ) -> None:
        """Make room for ``rows`` rows and the ``head``.

        ``facts`` are all that determines the rows, as JSON-able values. Raises `InputError` with
        ``what`` is stored where it is too large for the cache or the disk.
        """
        self._known: dict[str, Any] = {"layout": layout, "rows": rows, "facts": dict(facts)}
        tensors = {"weight": head.weight, "bias": head.bias} if head else {}
        self._head = {k: t.detach().contiguous() for k, t in tensors.items() if t is not None}
        self._bytes = rows * layout.width * getattr(torch, layout.dtype).itemsize
        self._header = _make_header(layout, rows, self._bytes)
        make_room(
            self._bytes + sum(tensor.nbytes for tensor in self._head.values()),
            f"the reference's distribution over {what}",
            "score fewer tokens (`limit:`) or a shorter text",
        )
        key = json.dumps([layout.kind, self._known["facts"]], sort_keys=True)
        self._key = hashlib.sha256(key.encode()).hexdigest()[:32]

    def __enter__(self) -> DistributionWriter:
        with _explain_write():
            self._partial = folder_of(f".{self._key}-{uuid.uuid4().hex[:8]}")
            self._partial.mkdir(parents=True)
            try:
                self._file = (self._partial / ROWS).open("wb")
                self._file.write(self._header)
            except OSError:
                shutil.rmtree(self._partial, ignore_errors=True)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses the last bytes once more
            self._file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def append(self, rows: torch.Tensor) -> None:
        """Keep ``rows`` (n, width) behind the ones before."""
        with _explain_write():
            content = rows.detach().to("cpu").contiguous().view(torch.uint8)
            self._file.write(content.numpy().data)

    def finish(self) -> tuple[str, int]:
        """Put the distribution in its place; returns its name and its bytes."""
        with _explain_write():
            assert self._file.tell() == len(self._header) + self._bytes
            self._file.close()
            files = [self._partial / ROWS]
            if self._head:
                files.append(self._partial / HEAD)
                save_file(self._head, files[1])
                # safetensors lets only the owner read; a cache may be shared.
                files[1].chmod(files[0].stat().st_mode & 0o777)
            manifest = Manifest(
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                bytes={file.name: file.stat().st_size for file in files},
                sha256=hash_files(files),
                **self._known,
            )
            (self._partial / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
            name = f"{self._key}-{manifest.sha256[:16]}"
            self._put_in_place(name)
        return name, sum(manifest.bytes.values())

    def _put_in_place(self, name: str) -> None:
        place = folder_of(name)
        if place.is_dir():
            if isinstance(read_manifest(name), Manifest):
                return  # the very same content
            remove(place)
        try:
            os.rename(self._partial, place)
        except OSError:
            if not place.is_dir():  # else another run was first, with the same content
                raise


class StoredDistribution:
    """Reads a distribution in parts; its output head is held on a device."""

    def __init__(self, name: str, device: str) -> None:
        """Raises `InputError` where the distribution is not there or not whole."""
        self.name, self._device, self._folder = name, device, folder_of(name)
        manifest = read_manifest(name)
        try:
            if isinstance(manifest, str):
                raise FileNotFoundError(manifest)
            file: Any = safe_open(self._folder / ROWS, framework="pt")
            self._rows = file.get_slice(manifest.layout.kind)
            stored = HEAD in manifest.bytes
            self._head = load_file(self._folder / HEAD, device=device) if stored else {}
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the reference's distribution {name[:8]} is damaged or gone: {error}. Run again: "
                "the reference is then measured anew (`harness cache clear distributions` removes "
                "them all)"
            ) from error
        self.layout, self.facts = manifest.layout, manifest.facts

    def read_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` (n, width), on the device, in the dtype they were kept in."""
        mark_used(self._folder)
        rows: torch.Tensor = self._rows[start:stop]
        return rows.to(self._device)

    def logits_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The reference's logits (n, vocabulary) of rows (n, width), as its own cell has them."""
        if not self._head:
            return rows
        # A candidate in TF32 must not lend the reference its rounding, nor the other way round.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.layout.matmul)
        try:
            return functional.linear(rows[None], self._head["weight"], self._head.get("bias"))[0]
        finally:
            torch.set_float32_matmul_precision(before)


def count_nonfinite(rows: torch.Tensor, kind: str) -> int:
    """Rows of ``states`` or ``logits`` that give no distribution; -inf is allowed among logits."""
    if kind == "logits":
        rows = rows.amax(-1, keepdim=True)  # NaN where one is
    return int((~rows.isfinite()).any(-1).sum())


def _make_header(layout: Layout, rows: int, size: int) -> bytes:
    """The beginning of a safetensors file of one tensor: a length, JSON, spaces up to 8."""
    kind, shape = _DTYPES[layout.dtype], [rows, layout.width]
    tensor = {"dtype": kind, "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({layout.kind: tensor}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextlib.contextmanager
def _explain_write() -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot keep the reference's distribution in {folder_of()}: "
            f"{getattr(error, 'strerror', None) or error}; "
            "set PRECISION_HARNESS_CACHE to a folder that can be written"
        ) from error

"""A cache of reference records, keyed by everything that could change them.

Spares measuring fp32 again each time one precision is looked at. Timings are never reused: a
ratio of two runs on a noisy machine means nothing.
"""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement
from harness.machine.files import cache_folder, write_atomically
from harness.records.identity import list_software
from harness.records.record import Record, dump_json
from harness.run.machine import Machine
from harness.suite.cells import Cell
from harness.suite.data_source import list_data_sources
from harness.suite.model_sources import ModelFiles
from harness.suite.models import MeasurementSpec
from harness.worker.messages import Failure

_COMMIT = re.compile("[0-9a-f]{7,40}")  # a branch or a tag can move


def cell_key(
    cell: Cell,
    files: ModelFiles | Failure,
    measurement: MeasurementSpec,
    machine: Machine,
    folder: Path,
    noise: bool,
) -> str | None:
    """`reference_key` of a cell on a machine; None for remote code too, which is in no hash.

    ``folder`` is the suite's, ``noise``: measured the second time, in other batches.
    """
    if isinstance(files, Failure) or cell.model.trust_remote_code:
        return None
    facts: dict[str, Any] = {
        "model": cell.model.model_dump(mode="json", exclude={"name", "requires"}),
        "revision": files.revision,
        "weights": files.weights_sha256,
        "tokenizer": files.tokenizer_sha256,
        "precision": cell.precision.model_dump(mode="json"),
        "device": [machine.device.device, machine.device.gpu_name],
    } | ({"noise": True} if noise else {})
    return reference_key(facts, measurement, folder, machine.environment)


def reference_key(
    cell: dict[str, Any],
    measurement: MeasurementSpec,
    folder: Path,
    environment: dict[str, Any],
) -> str | None:
    """A hash over cell, measurement, data and environment; None where nothing may be reused.

    ``cell`` holds the model's and the tokenizer's hashes, the precision's options and the device.
    A hub dataset that is not pinned to a commit can change at any time: no key.
    """
    if load_measurement(measurement.name).timed:
        return None
    data = {}
    for name, source in list_data_sources(measurement.options):
        kind, place = source.locate(folder)
        if kind == "hub" and not _COMMIT.fullmatch(source.revision or ""):
            return None
        data[name] = source.revision if kind == "hub" else hash_tree(Path(place))
    parts = {
        "cell": cell,
        "measurement": [measurement.name, measurement.options.model_dump(mode="json")],
        "data": data,
        **list_software(environment),
    }
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_tree(path: Path) -> str:
    """SHA-256 over a file, or over the names and contents of a folder's files."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def find_reference(key: str | None) -> Record | None:
    """The stored record, or None; one that cannot be read counts as none."""
    if key is None:
        return None
    try:
        return Record.model_validate_json(_place(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep_reference(key: str | None, record: Record, run_id: str) -> None:
    """Store a sound record for later runs; a cache that cannot be written is no error."""
    if key is None or record.validity.status != "ok":
        return
    stored = record.model_copy(update={"reused_from": run_id})
    with contextlib.suppress(OSError):
        write_atomically(_place(key), dump_json(stored))


def _place(key: str) -> Path:
    return cache_folder() / "references" / f"{key}.json"

"""`harness doctor`: every part tried for real, and each fault with its fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.catalog import list_readers
from harness.cli import main
from harness.machine.environment import DeviceFacts
from harness.precisions import bitsandbytes as own
from harness.run import doctor
from harness.worker.trial import try_libraries


def examine(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, Any]:
    assert main(["doctor", "--format", "json"]) == status
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.suite.hub.hub_is_reachable", lambda: False)


def fake_device(monkeypatch: pytest.MonkeyPatch, found: DeviceFacts | str, works: bool) -> None:
    """What a worker would answer on another machine."""

    def call(function: Any, *arguments: Any) -> Any:
        if function is try_libraries:
            return {"quantiser": (works, "tried" if works else "RuntimeError: no kernel")}
        return found

    monkeypatch.setattr(doctor, "call_in_worker", call)


def test_this_machine_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(capsys, 0)
    assert torch.__version__ in found["torch"]["found"]
    assert "products on" in found["bitsandbytes"]["found"]
    assert found["hub"]["status"] == "warning"
    assert all(check["fix"] for check in found.values() if check["status"] != "ok")
    assert main(["doctor"]) == 0
    assert "ready, with " in capsys.readouterr().out


def test_a_gpu_that_torch_cannot_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lack = "the NVIDIA driver is too old: install a driver for CUDA 13"
    facts = {"version": "2.13.0", "cuda": "13.0", "cuda_unavailable": lack}
    fake_device(monkeypatch, DeviceFacts("cpu", None, 8 << 30, facts), works=True)
    found = examine(capsys, 0)
    assert found["device"]["status"] == "warning"
    assert found["device"]["found"] == "cpu, 8 GiB, although there is a GPU"
    assert found["device"]["fix"] == lack


def test_what_does_not_work_fails_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = {"version": "2.13.0", "cuda": None}
    fake_device(monkeypatch, DeviceFacts("cpu", None, 8 << 30, facts), works=False)
    assert examine(capsys, 1)["quantiser"]["found"] == "RuntimeError: no kernel"
    fake_device(monkeypatch, "a worker process died with exit code 1", works=True)
    assert examine(capsys, 1)["torch"]["found"] == "a worker process died with exit code 1"
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--results", str(tmp_path / "file" / "runs")]) == 1
    shown = capsys.readouterr().out
    assert "nothing can be written there" in shown
    assert "not ready: " in shown


def test_packages_of_other_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["click>=99", "no-such-package", "pytest", 'other; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    found = list(doctor._check_packages())
    assert [check.name for check in found] == ["click", "no-such-package"]
    assert found[0].found.endswith(", expected >=99")
    assert found[1].found.startswith("not installed")
    assert all(check.status == "error" and "pip install" in check.fix for check in found)


def test_a_disk_that_is_full_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 3 << 30})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    found = doctor._check_folder("results", tmp_path / "runs")
    assert (found.status, found.found) == ("warning", f"{tmp_path / 'runs'}, 3 GiB free")
    assert not (tmp_path / "runs").exists()


def test_products_that_are_wrong_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a backend without a kernel, or with a broken one, would give."""
    (reader,) = (r for r in list_readers() if r.library == "bitsandbytes")
    works, found = try_libraries("cpu")["bitsandbytes"]
    assert works
    assert "int8" in found
    monkeypatch.setitem(own._LARGEST_ERROR, "nf4", 0.001)
    with pytest.raises(RuntimeError, match=r"products of nf4 are .*% off"):
        reader.try_out("cpu")
    assert try_libraries("cpu")["bitsandbytes"][0] is False

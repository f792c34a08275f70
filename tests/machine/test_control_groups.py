"""Limits of control groups, read from folders laid out as Linux lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.machine import control_groups
from harness.machine.control_groups import read_cpu_quota, read_memory_left, read_memory_limit


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the control groups; this process is in the group job/step below it."""
    (tmp_path / "job" / "step").mkdir(parents=True)
    monkeypatch.setattr(control_groups, "ROOT", tmp_path)
    monkeypatch.setattr(
        control_groups, "list_groups", lambda: [tmp_path / "job/step", tmp_path / "job", tmp_path]
    )
    return tmp_path


def write_memory(folder: Path, limit: str, used: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 300\ninactive_file 20\nactive_file 50\n")


def test_without_limits_everything_is_unlimited(groups: Path) -> None:
    assert read_memory_limit() is read_cpu_quota() is read_memory_left() is None


def test_limits_are_the_lowest_of_the_process_s_group_and_those_above_it(groups: Path) -> None:
    write_memory(groups / "job/step", "max", 400)
    write_memory(groups / "job", "1000", 500)
    write_memory(groups, "9000", 8700)
    (groups / "job" / "cpu.max").write_text("150000 100000\n")
    (groups / "cpu.max").write_text("max 100000\n")
    assert read_memory_limit() == 1000
    assert read_cpu_quota() == 1.5
    assert read_memory_left() == 9000 - 8700 + 70  # files that can be dropped are not used


def test_version_1_has_one_group(groups: Path) -> None:
    folder = groups / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("900\n")
    (folder / "memory.stat").write_text("total_inactive_file 30\ninactive_file 5\n")
    assert read_memory_limit() == 1000
    assert read_memory_left() == 130


def test_the_group_of_this_process_is_found() -> None:
    assert control_groups.list_groups()[-1] == control_groups.ROOT

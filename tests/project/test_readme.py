"""What the README shows a user to type is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.suite.read import SuiteError, load_suite

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example() -> str:
    """The suite that the README shows."""
    found = re.search(r"```yaml\n(# suites/mine\.yaml\n.*?)```", README, re.DOTALL)
    assert found is not None
    return found.group(1)


def write(folder: Path, text: str) -> Path:
    path = folder / "suites" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_suite_is_valid(tmp_path: Path, example: str) -> None:
    suite = load_suite(write(tmp_path, example), tmp_path)
    assert [precision.name for precision in suite.precisions] == ["bf16", "int8", "nf4", "nf4-dq"]


def test_the_example_mistake_is_answered_as_shown(tmp_path: Path, example: str) -> None:
    path = write(tmp_path, example.replace("context:", "contxt:"))
    with pytest.raises(SuiteError) as caught:
        load_suite(path, tmp_path)
    shown = next(line.strip() for line in README.splitlines() if "unknown key 'contxt'" in line)
    assert str(caught.value).startswith(shown.rstrip("… "))


def test_every_option_of_the_plugin_is_listed() -> None:
    text = (ROOT / "harness/plugin/options.py").read_text()
    options = set(re.findall(r'^    "([a-z-]+)": [{_]', text, re.MULTILINE))
    assert {"precision", "confirm"} <= options
    missing = {option for option in options if f"--{option}" not in README}
    assert not missing


def test_every_shipped_suite_is_listed() -> None:
    for path in (ROOT / "suites").glob("*.yaml"):
        assert f"`{path.name}`" in README

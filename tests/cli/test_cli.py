"""The ``harness`` command: its answers, its exit status, and that it starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import __version__
from harness.cli import main
from tests.support.projects import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PRECISION_HARNESS_CACHE_LIMIT", raising=False)
    return tmp_path / "cache"


def put(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "cache" in capsys.readouterr().out
    assert main(["--help"]) == 0


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"precision-harness, version {__version__}\n"


def test_the_cache_is_shown_by_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "references" / "a.json", 100)
    put(folder / "distributions" / "d" / "states", 3 << 20)
    put(folder / "distributions" / "d" / "head", 1 << 20)
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == (
        f"{folder}\n"
        "  references         1      100 B\n"
        "  distributions      1      4 MiB\n"
        "  questions          0        0 B\n"
        "  casts              0        0 B\n"
        "  total              2      4 MiB\n"
        "limit 20 GiB (PRECISION_HARNESS_CACHE_LIMIT), the longest unused goes first\n"
    )


def test_clearing_takes_one_kind_or_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder / "references" / "a.json", 100)
    put(folder / "questions" / "q.gz", 2048)
    put(folder / "questions" / ".q.gz.7", 5)
    assert main(["cache", "clear", "questions"]) == 0
    assert capsys.readouterr().out == (
        "removed 1 entry, 2 KiB\nkept 1 entry, 5 B: another run is writing\n"
    )
    assert (folder / "references" / "a.json").exists()
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("removed 1 entry, 100 B\n")
    assert not (folder / "references" / "a.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache", "clear", "question"], "unknown kind 'question'; did you mean 'questions'?"),
        (["cache", "clean"], "No such command 'clean'"),
        (["list", "precision"], "unknown kind 'precision'; did you mean 'precisions'?"),
        (["list"], "Missing argument"),
        (["--fast"], "No such option"),
    ],
)
def test_wrong_input_exits_with_4(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 4
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_limit_that_is_no_size_exits_with_4(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE_LIMIT", "much")
    assert main(["cache"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("Error: PRECISION_HARNESS_CACHE_LIMIT=much: expected bytes such as")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("precisions", "nf4   4-bit NormalFloat"),
        ("metrics", "perplexity    exp of the mean negative log-likelihood"),
        ("tasks", "mmlu           multiple-choice questions by subject"),
    ],
)
def test_names_a_suite_may_use_are_listed(
    kind: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", kind]) == 0
    out = capsys.readouterr().out
    assert line in out
    assert "multiple_choice " not in out  # an engine, no measurement


def test_models_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.suite.hub.list_cached", lambda: {"acme/tiny": 3 << 20})
    assert main(["list", "models"]) == 0
    assert capsys.readouterr().out == (
        "builtin:tiny-world  embedded: works without network\n"
        "acme/tiny           in the hub's cache, 3 MiB\n"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_what_completes_commands(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["completion", shell]) == 0
    assert "_HARNESS_COMPLETE" in capsys.readouterr().out
    monkeypatch.setenv("_HARNESS_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "harness re")
    monkeypatch.setenv("COMP_CWORD", "1" if shell != "fish" else "re")
    with pytest.raises(SystemExit):
        main([])
    assert "recommend" in capsys.readouterr().out


def test_it_starts_without_what_it_does_not_need() -> None:
    code = (
        "import sys\nfrom harness.cli import main\nassert main(['cache']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pytest'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "limit 20 GiB" in done.stdout


def test_ab_of_a_suite_that_takes_no_times_asks_for_a_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "s.yaml"
    suite.write_text(
        "name: s\nmodels: [{name: m, source: 'builtin:tiny-world'}]\nprecisions: [fp32, nf4]\n"
        "reference: fp32\nmeasure: {footprint: {}}\n"
    )
    assert main(["ab", str(suite), "--precision", "fp32", "--precision", "nf4"]) == 4
    assert "takes no times: choose with --measure (footprint)" in capsys.readouterr().err

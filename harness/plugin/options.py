"""The options that the plugin adds to pytest, and what they mean to a run."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.run.settings import RunSettings
from harness.suite.allowed import check_allowed
from harness.suite.cells import Selection


@dataclass(frozen=True)
class CommandLine:
    """What was asked for on the command line.

    ``also_failing`` are the outcomes that fail an item in addition to FAIL, failed and invalid.
    """

    device: str
    selection: Selection
    settings: RunSettings
    bless: bool
    reason: str
    report: Path | None
    require_all: bool
    also_failing: frozenset[str]


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
    return seconds


def _duration(text: str) -> float:
    """Seconds; ``text`` is such as 90s, 20m or 1h30m."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise argparse.ArgumentTypeError(
            f"expected a time such as 90s, 20m or 1h30m, found {text!r}"
        )
    return float(total)


def _names(plural: str) -> dict[str, Any]:
    """An option that takes names, may be repeated and may hold several."""
    help_text = f"only these {plural}; may be repeated"
    return {"action": "append", "default": [], "metavar": "NAME[,NAME…]", "help": help_text}


_OPTIONS: dict[str, dict[str, Any]] = {
    "precision": _names("precisions"),
    "model": _names("models"),
    "measure": _names("measurements"),
    "device": {"default": "auto", "metavar": "auto|cpu|cuda[:N]", "help": "where cells run"},
    "results": {
        "default": "results/runs",
        "metavar": "DIR",
        "help": "where run files go, under the root folder (default: results/runs)",
    },
    "against": {
        "metavar": "FILE|REV|none",
        "help": "judge by these thresholds or this earlier run as well as by the suite's limits "
        "(default: results/thresholds/<suite>/<device>.json, where it exists)",
    },
    "allow": {
        "action": "append",
        "default": [],
        "metavar": "FIELD[,FIELD…]",
        "help": "judge although this part of the question differs, such as protocol.shots; flagged",
    },
    "confirm": {
        "action": "store_true",
        "help": "where a speed does not pass by its threshold, measure the blessed commit too, in "
        "turn with this code, and judge by the pairs; needs git, and takes 12 processes for each "
        "measurement that is confirmed",
    },
    "until-decided": {
        "action": "store_true",
        "help": "after a suite's measurements, measure more processes where a limit on a speed "
        "is INCONCLUSIVE, with bounds that allow for looking again and again: until it is decided, "
        "or 16 processes of a cell",
    },
    "at-most": {
        "type": _duration,
        "metavar": "TIME",
        "help": "how long --until-decided, and --confirm, may each measure on in each suite, "
        "such as 90s, 20m or 1h30m",
    },
    "bless": {"action": "store_true", "help": "make thresholds of this run; needs --reason"},
    "reason": {"default": "", "metavar": "TEXT", "help": "why, for --bless"},
    "report": {
        "metavar": "FILE",
        "help": "write the run's report, one HTML file; needs matplotlib",
    },
    "on-inconclusive": {
        "choices": ("warn", "fail"),
        "default": "warn",
        "help": "what to do about an INCONCLUSIVE verdict",
    },
    "require-all": {
        "action": "store_true",
        "help": "what is missing fails: a cell that is skipped because its model, data or device "
        "is not available, what was blessed and is not measured, and what cannot be judged for "
        "want of a number or because another question was asked",
    },
    "cell-timeout": {
        "type": _positive_seconds,
        "metavar": "SECONDS",
        "help": "kill a cell's process that takes longer",
    },
    "no-isolate": {
        "action": "store_true",
        "help": "run cells inside pytest's own process, for a debugger; memory peaks mean less",
    },
}


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("precision-harness", "which precision of a language model to ship")
    for name, given in _OPTIONS.items():
        group.addoption(f"--{name}", **given)


def read_options(config: pytest.Config) -> CommandLine:
    """The options as given; raises UsageError for those that make no sense."""
    given = config.option
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", given.device):
        found = repr(given.device)
        raise pytest.UsageError(f"--device: expected auto, cpu, cuda or cuda:N, found {found}")
    if given.bless and not given.reason.strip():
        raise pytest.UsageError("--bless needs --reason 'why these numbers are the new ones'")
    if given.reason and not given.bless:
        raise pytest.UsageError("--reason says why --bless makes new thresholds: give both")
    if given.at_most is not None and not (given.until_decided or given.confirm):
        raise pytest.UsageError("--at-most bounds --until-decided and --confirm: give one of them")
    if given.until_decided and given.no_isolate:
        raise pytest.UsageError("--until-decided needs processes: leave out --no-isolate")
    # New thresholds are not judged by those that they replace.
    against = "none" if given.bless else given.against
    _check_against(against, config.rootpath)
    also_failing = {"skipped", "unjudged"} if given.require_all else set()
    if given.on_inconclusive == "fail":
        also_failing.add("INCONCLUSIVE")
    return CommandLine(
        device=given.device,
        selection=Selection(*map(_split, (given.precision, given.model, given.measure))),
        settings=RunSettings(
            results=config.rootpath / given.results,
            argv=("pytest", *config.invocation_params.args),
            root=config.rootpath,
            against=against,
            allow=_read_allowed(given.allow),
            isolate=not given.no_isolate,
            cell_timeout_s=given.cell_timeout,
            confirm=given.confirm,
            program=_find_program(config.invocation_params.args),
            options=tuple(_repeat_options(config)),
            folder=config.invocation_params.dir,
            until_decided=given.until_decided,
            at_most_s=given.at_most,
        ),
        bless=given.bless,
        reason=given.reason,
        report=_read_report(given.report, config),
        require_all=given.require_all,
        also_failing=frozenset(also_failing),
    )


def _check_against(against: str | None, root: Path) -> None:
    """Raises UsageError for what is neither a path nor a revision, before anything is collected."""
    if against in (None, "none") or Path(against).exists():
        return
    from harness.records.find_runs import resolve_revision

    try:
        resolve_revision(against, root)
    except InputError as error:
        raise pytest.UsageError(f"--against: {error}") from None


def _find_program(arguments: Sequence[str]) -> tuple[str, ...]:
    """How a person starts pytest as it was started now."""
    if {"harness.plugin", "--rootdir=."} <= {*arguments}:
        return ("harness", "run")
    is_module = Path(sys.argv[0]).name == "__main__.py"
    return ("python", "-m", "pytest") if is_module else ("pytest",)


def _repeat_options(config: pytest.Config) -> Iterator[str]:
    """The given options that decide where and by what a measurement is made and judged."""
    given, arguments = config.option, config.invocation_params.args
    if _find_program(arguments)[0] != "harness":
        if "harness.plugin" in arguments:
            yield from ("-p", "harness.plugin")
        yield from ("--rootdir", given.rootdir) if given.rootdir else ()
        yield from ("-c", given.inifilename) if given.inifilename else ()
    for name in ("device", "results", "against", "allow", "cell-timeout"):
        value = getattr(given, name.replace("-", "_"))
        if value != _OPTIONS[name].get("default"):
            yield from (f"--{name}={one}" for one in (value if name == "allow" else [value]))


def _read_report(given: str | None, config: pytest.Config) -> Path | None:
    """Where the report goes, in the working folder; checked before the long work."""
    if given is None:
        return None
    from harness.report.drawing import check_installed

    path = config.invocation_params.dir / given
    if path.is_dir() or not path.parent.is_dir():
        raise pytest.UsageError(f"--report: expected a file in a folder that exists, found {given}")
    try:
        check_installed()
    except InputError as error:
        raise pytest.UsageError(f"--report: {error}") from None
    return path


def _read_allowed(given: list[str]) -> tuple[str, ...]:
    try:
        return check_allowed(_split(given))
    except InputError as error:
        raise pytest.UsageError(f"--allow: {error}") from None


def _split(given: list[str]) -> tuple[str, ...]:
    """The names of a repeatable, comma-separated option."""
    return tuple(name.strip() for part in given for name in part.split(",") if name.strip())

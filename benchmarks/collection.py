"""How long pytest takes to collect a suite of a thousand cells, beside as many plain tests.

    python benchmarks/collection.py [rounds]

The peer is pytest itself, collecting the same number of parametrised functions. Rounds alternate
between the two, and the ratio is of medians from this one run: absolute times say more about the
machine than about the harness.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
MODELS, PRECISIONS = 143, ("fp32", "bf16", "fp16", "int8", "nf4", "fp4", "tf32")
MEASUREMENTS = ("footprint", "memory")
CELLS = MODELS * len(PRECISIONS)


def write_suite(folder: Path) -> int:
    """A suite of 1,001 cells; returns how many items it has."""
    models = "".join(f'  - {{name: m{i}, source: "builtin:tiny-world"}}\n' for i in range(MODELS))
    measure = "".join(f"  {name}: {{}}\n" for name in MEASUREMENTS)
    (folder / "suites").mkdir(parents=True)
    (folder / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    (folder / "suites" / "big.yaml").write_text(
        f"name: big\nreference: fp32\nmodels:\n{models}"
        f"precisions: [{', '.join(PRECISIONS)}]\nmeasure:\n{measure}"
    )
    return CELLS * len(MEASUREMENTS)


def write_peer(folder: Path, items: int) -> None:
    """The same number of plain parametrised tests."""
    folder.mkdir(parents=True)
    (folder / "test_peer.py").write_text(
        "import pytest\n\n\n"
        f"@pytest.mark.parametrize('i', range({items}))\ndef test_nothing(i):\n    pass\n"
    )


def collect(folder: Path, target: str, items: int) -> float:
    """Seconds of one whole `pytest --collect-only` process; checks that it found everything."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", target, "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    assert f"{items} tests collected" in done.stdout, done.stdout[-500:]
    return seconds


def measure_collection(folder: Path, rounds: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of our processes and of the peer's, in turn."""
    sides = folder / "ours", folder / "peer"
    items = write_suite(sides[0])
    write_peer(sides[1], items)
    pairs = [[collect(side, ".", items) for side in sides] for _ in range(rounds)]
    ours, peer = zip(*pairs, strict=True)
    return ours, peer


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as name:
        ours, peer = measure_collection(Path(name), rounds)
    print(f"{CELLS} cells, {CELLS * len(MEASUREMENTS)} items, {rounds} alternating rounds")
    for who, seconds in (("harness", ours), ("pytest", peer)):
        low, middle, high = min(seconds), median(seconds), max(seconds)
        print(f"{who:8} {middle:6.2f} s  ({low:.2f} to {high:.2f})")
    print(f"ratio    {median(ours) / median(peer):6.2f}")


if __name__ == "__main__":
    main()

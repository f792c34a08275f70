"""benchmarks/gpu_check.sh: all its parts rehearsed on a CPU, and what its helpers make of files.

The rehearsal shows that every part starts, ends and is read; its figures are worth nothing.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import requirements  # noqa: E402
from gpu.figures import expect_bytes, find_problems  # noqa: E402
from gpu.offline import adapt  # noqa: E402
from gpu.trim_wheel import trim  # noqa: E402

from harness.catalog import load_measurement  # noqa: E402
from harness.timing.rounds import RoundLimits, take_rounds, warm_up  # noqa: E402

PARTS = [
    "tests", "warmup", "smoke", "shapes-1b", "shapes-8b", "model", "overhead", "scoring",
    "nightly",
]  # fmt: skip


def check(folder: Path, *parts: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the CPU, with results and caches in ``folder``."""
    dropped = ("PYTEST_", "PRECISION_HARNESS")
    kept = {name: v for name, v in os.environ.items() if not name.startswith(dropped)}
    given = {"DEVICE": "cpu", "OUT": str(folder / "out"), "WORK": str(folder / "work")}
    return subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu_check.sh"), *parts],
        env={**kept, **given, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_results(folder: Path) -> dict[str, dict[str, str]]:
    """Part -> step -> how it ended, as the summary has it."""
    parts = json.loads((folder / "out/summary.json").read_text())["parts"]
    return {p: {s["step"]: s["status"] for s in found["steps"]} for p, found in parts.items()}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All parts, one after the other; the embedded model is the one "that is there"."""
    folder = tmp_path_factory.mktemp("rehearsal")
    model = ROOT / "harness/builtin/tiny-world/model"
    data = folder / "data"
    (data / "wikitext2").mkdir(parents=True)
    text = (ROOT / "harness/builtin/tiny-world/heldout.txt").read_text(encoding="utf-8")
    (data / "wikitext2/wiki.test.raw").write_text(text, encoding="utf-8")
    (data / "mmlu").symlink_to(ROOT / "harness/builtin/tiny-world/quiz")
    # No test of time: this machine may be busy.
    done = check(folder, MODEL=str(model), DATA=str(data), STRETCH="5")
    (folder / "output.txt").write_text(done.stdout, encoding="utf-8")
    assert (folder / "out/summary.json").exists(), done.stdout
    return folder


@pytest.mark.slow
@pytest.mark.e2e
def test_every_part_ends_and_is_in_the_summary(rehearsal: Path) -> None:
    results = read_results(rehearsal)
    assert list(results) == PARTS
    wrong = {
        f"{part}/{step}": status
        for part, steps in results.items()
        for step, status in steps.items()
        # What they judge is this machine's memory, or refused for a working tree with changes.
        if status != "ok" and step not in ("plausible", "thresholds")
    }
    assert not wrong, (rehearsal / "output.txt").read_text()[-8000:]
    assert "NOT RUN" not in str(results)
    table = (rehearsal / "out/summary.md").read_text()
    assert all(f"| {part} | " in table for part in PARTS)
    assert "torch" in table


@pytest.mark.slow
@pytest.mark.e2e
def test_figures_of_every_suite_reach_the_summary(rehearsal: Path) -> None:
    parts = json.loads((rehearsal / "out/summary.json").read_text())["parts"]
    smoke = parts["smoke"]["figures"]["cells"]
    assert set(smoke) == {"smoke/tiny-world[fp32]", "smoke/tiny-world[nf4]"}
    assert all(cell["bits_per_weight"] > 4 for cell in smoke.values())
    for part, precisions in (("shapes-1b", {"bf16]", "nf4]", "int8]"}), ("shapes-8b", {"bf16]"})):
        found = parts[part]["figures"]
        assert not found["problems"]
        assert {name.partition("[")[2] for name in found["cells"]} == precisions
        for cell in found["cells"].values():
            assert cell["total_bytes"] == pytest.approx(cell["expected"]["bytes"], rel=0.02)
            assert cell["kv_bytes_per_token"] == cell["expected"]["kv"]
            assert cell["decode_tokens_per_s[1]"] > 0
    assert len(parts["warmup"]["figures"]["cells"]) == 3
    assert [row["prompt_tokens"] for row in parts["warmup"]["attention"]["rows"]] == [16, 16]
    assert all(row["same"] for row in parts["scoring"]["scoring"])
    for part in ("model", "nightly"):
        cells = parts[part]["figures"]["cells"].values()
        assert all(cell["perplexity"] > 1 and cell["mmlu"] >= 0 for cell in cells), part


@pytest.mark.slow
@pytest.mark.e2e
def test_roofline_and_compiled_speeds_have_their_columns(rehearsal: Path) -> None:
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (rehearsal / "out/summary.md").read_text().splitlines()
        if line.startswith(("| cell |", "| shapes-8b/"))
    ]
    found = dict(zip(*rows, strict=True))
    assert found["cell"] == "shapes-8b/llama-8b-shape[bf16]"
    compiled = ["compiled tok/s", "compiled MBU"] * bool(shutil.which(os.environ.get("CXX", "g++")))
    assert all(float(found[name].replace(",", "")) > 0 for name in ["decode tok/s", *compiled])
    assert all(found[name] for name in ["MBU", *compiled])


@pytest.mark.slow
def test_a_part_that_cannot_run_does_not_stop_the_next(tmp_path: Path) -> None:
    """With no time at all; by number and by name."""
    done = check(tmp_path, "1", "scoring", STRETCH="0")
    assert done.returncode == 1
    spent = "NOT RUN: the part's time was spent"
    assert read_results(tmp_path) == {"tests": {"cuda": spent}, "scoring": {"scoring": spent}}
    assert "failed: tests/cuda scoring/scoring" in done.stdout


def test_an_unknown_part_is_answered_with_the_known(tmp_path: Path) -> None:
    done = check(tmp_path, "smoke", "smok")
    assert done.returncode == 2
    assert f"unknown part smok: {' '.join(PARTS)}, or their numbers from 1" in done.stdout
    assert not (tmp_path / "out").exists(), "nothing has run"


def test_what_was_measured_is_read_though_measuring_took_all_the_time(tmp_path: Path) -> None:
    check(tmp_path, "warmup", "shapes-1b", STRETCH="0")
    for steps in read_results(tmp_path).values():
        assert steps["measure"].startswith("NOT RUN")
        assert steps["figures"] == "FAILED: 1", "it ran, and there was no run file"


# The limits: what the suites as written take at least, on a simulated clock

# Assumed, never measured here: seconds per token and layer of uncompiled decoding, which waits for
# Python; of loading a cell, compiling a step, asking a text and questions, and writing 16 GB.
TOKEN_S = {"int8": 3e-3, "nf4": 1.5e-3}
OTHER_TOKEN_S, COMPILED_TOKEN_S = 1e-3, 0.4e-3
LOAD_S = {16: 5, 32: 15}  # by layers
COMPILE_S, ASK_S, WRITE_S = 20, 15, 40
ATTENTION_S = 3 * (2 * 6 + 1) * 32 * 16 * OTHER_TOKEN_S  # sizes, generations, tokens, layers


def write_suites(folder: Path) -> None:
    """Run the script with a Python that writes suites and the summary, and does nothing else."""
    model = folder / "llama"
    model.mkdir()
    (model / "config.json").write_text('{"max_position_embeddings": 131072}')
    python = folder / "python"
    python.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'*gpu.offline*|*gpu.summary*) exec "{sys.executable}" "$@" ;;\nesac\n'
    )
    python.chmod(0o755)
    for data in ("wikitext2/wiki.test.raw", "mmlu", "hellaswag/validation_1000.jsonl"):
        (folder / "data" / data).mkdir(parents=True)
    given = {
        "MODEL": str(model),
        "DATA": str(folder / "data"),
        "SIZE": "full",
        "PYTHON": str(python),
    }
    done = check(folder, DEVICE="cuda:0", **given)
    assert done.returncode == 0, done.stdout


def time_rounds(options: Any, token_s: float) -> float:
    """Seconds of one workload's warm-up and rounds."""
    now = 0.0

    def run() -> float:
        nonlocal now
        now += options.new_tokens * token_s
        return options.new_tokens * token_s

    limits = RoundLimits(
        options.min_rounds, options.min_time_s, options.max_time_s, options.warmup_s
    )
    warm_up(run, limits, lambda: now)
    take_rounds(run, limits, lambda: now)
    return now


def estimate(suite: dict[str, Any]) -> float:
    """Seconds that the suite takes."""
    total = 0.0
    for model, precision in itertools.product(suite["models"], suite["precisions"]):
        layers = 32 if model["name"] == "llama-8b-shape" else 16
        token_s = layers * TOKEN_S.get(precision, OTHER_TOKEN_S)
        options = load_measurement("throughput").options(**suite["measure"]["throughput"])
        memory = suite["measure"].get("memory", {"new_tokens": 0})
        total += LOAD_S[layers] + memory["new_tokens"] * token_s
        total += ASK_S * ("perplexity" in suite["measure"])
        for workload in options.workloads("cuda"):
            compiled = workload.also_compiled
            total += COMPILE_S * compiled
            total += time_rounds(options, layers * COMPILED_TOKEN_S if compiled else token_s)
    return total


def test_every_part_has_the_time_that_its_suites_take(tmp_path: Path) -> None:
    write_suites(tmp_path)
    parts = json.loads((tmp_path / "out/summary.json").read_text())["parts"]
    limits = {part: int(found["steps"][0]["limit"]) for part, found in parts.items()}
    assert sum(limits.values()) <= 1500, "half an hour, less starting a machine and transfers"
    for part in ("warmup", "shapes-1b", "shapes-8b", "model", "nightly"):
        written = (tmp_path / "out" / part).glob("*.yaml")
        seconds = sum(estimate(yaml.safe_load(path.read_text())) for path in written)
        seconds += {"warmup": ATTENTION_S, "shapes-8b": WRITE_S}.get(part, 0)
        assert seconds <= limits[part], part
    slowest = yaml.safe_load((tmp_path / "out/shapes-8b/shapes-8b.yaml").read_text())
    assert slowest["precisions"] == ["bf16", "nf4", "int8"], "cut off is int8, not bf16 or nf4"


# Suites as they can run here


def options(tmp_path: Path, **given: Any) -> argparse.Namespace:
    nothing = {"models": [], "precisions": [], "measure": [], "set": [], "measure_of": None}
    made = {**nothing, "model": None, "data": None, "small": False, "out": tmp_path / "made.yaml"}
    return argparse.Namespace(**{**made, **given})


def suite(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / f"suites/{name}.yaml").read_text())
    return read


def test_a_suite_of_the_hub_runs_on_what_is_here_and_says_what_it_leaves_out(
    tmp_path: Path,
) -> None:
    made, said = adapt(suite("nightly"), options(tmp_path, precisions=["nf4"]))
    assert made["models"] == [{"name": "tiny-world", "source": "builtin:tiny-world"}]
    assert made["precisions"] == ["bf16", "nf4"], "the reference stays"
    assert made["measure"]["perplexity"]["text"] == "builtin:tiny-world/heldout"
    assert made["measure"]["perplexity"]["context"] <= 512
    assert {"hellaswag", "arc_challenge", "gsm8k"}.isdisjoint(made["measure"])
    assert made["limits"] == []
    assert [s for s in said if "without gsm8k" in s]
    assert [s for s in said if "qwen2.5-1.5b, smollm2-1.7b" in s]


def test_a_suite_of_shapes_keeps_the_limits_that_still_apply(tmp_path: Path) -> None:
    given = options(tmp_path, models=["llama-1b-shape"], precisions=["bf16", "nf4"])
    made, said = adapt(suite("shapes"), given)
    assert [m["name"] for m in made["models"]] == ["llama-1b-shape"]
    metrics = [(limit["precision"], limit["metric"]) for limit in made["limits"]]
    assert metrics == [("nf4", "footprint.bits_per_weight")]
    assert said == []


def test_what_is_measured_can_come_from_another_suite(tmp_path: Path) -> None:
    given = options(
        tmp_path,
        measure_of=ROOT / "suites/nightly.yaml",
        measure=["throughput"],
        set=["throughput.processes=1", "throughput.batch_sizes=[1, 4]"],
    )
    made, _ = adapt(suite("shapes"), given)
    expected = {**suite("nightly")["measure"]["throughput"], "processes": 1, "batch_sizes": [1, 4]}
    assert made["measure"] == {"throughput": expected}


# Figures beside arithmetic

LLAMA_1B = next(m["source"] for m in suite("shapes")["models"] if m["name"] == "llama-1b-shape")
LLAMA_8B = next(m["source"] for m in suite("shapes")["models"] if m["name"] == "llama-8b-shape")


def test_bytes_of_known_models() -> None:
    """1,235,814,400 and 8,030,261,248 parameters, as published; nf4 counted by hand."""
    assert expect_bytes(LLAMA_1B, "bf16", 2)["bytes"] == 2 * 1_235_814_400
    assert expect_bytes(LLAMA_8B, "bf16", 2)["bytes"] == 2 * 8_030_261_248
    nf4 = expect_bytes(LLAMA_1B, "nf4", 2)
    assert nf4["bytes"] == 16 * 34_209_792 + 2 * 262_735_872
    assert nf4["bits"] == 4.5
    assert expect_bytes(LLAMA_8B, "bf16", 2)["kv"] == 131_072


@pytest.mark.parametrize(
    ("figure", "value", "told"),
    [
        ("weights_bytes", 1_019, False),
        ("weights_bytes", 1_021, True),
        ("total_bytes", 979, True),
        ("bits_per_weight", 4.5, False),
        ("bits_per_weight", 4.0, True),
        ("kv_bytes_per_token", 64, True),
        ("kv_bytes_per_token", None, False),
    ],
)
def test_figures_that_differ_from_arithmetic_are_told(figure: str, value: Any, told: bool) -> None:
    expected = {"bytes": 1_000, "bits": 4.5, "kv": 32}
    cell = {"device": "cuda:0", "expected": expected, "reasons": [], figure: value}
    assert bool(list(find_problems({"c": cell}))) is told
    if figure == "weights_bytes":  # of a whole process on a CPU
        assert not list(find_problems({"c": {**cell, "device": "cpu"}}))


def test_on_a_gpu_a_speed_that_had_not_settled_is_told() -> None:
    reason = "throughput: batch 1: warm-up ended before the speed had settled"
    cell = {"device": "cuda:0", "reasons": [reason, "throughput: something else"]}
    assert list(find_problems({"c": cell})) == [f"c {reason}"]
    assert not list(find_problems({"c": {**cell, "device": "cpu"}}))


# Packages


def make_wheel(folder: Path, libraries: list[str]) -> Path:
    """A wheel like bitsandbytes' with these native libraries of 1,000 bytes."""
    wheel = folder / "bitsandbytes-0.50.2-py3-none-any.whl"
    info = "bitsandbytes-0.50.2.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.50.2\n"
    files = {
        "bitsandbytes/__init__.py": b"",
        **{f"bitsandbytes/libbitsandbytes_{name}.so": bytes(1_000) for name in libraries},
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        rows = []
        for name, content in files.items():
            archive.writestr(name, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            rows.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return wheel


@pytest.mark.slow
def test_a_trimmed_wheel_holds_the_libraries_to_keep_and_a_true_record(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, ["cpu", "cuda126", "cuda130"])
    made = trim(wheel, tmp_path / "small", ["cpu", "cuda130"])
    with zipfile.ZipFile(made) as archive:
        held = set(archive.namelist())
        record = archive.read("bitsandbytes-0.50.2.dist-info/RECORD").decode()
    assert {name.rpartition("_")[2] for name in held if name.endswith(".so")} == {
        "cpu.so",
        "cuda130.so",
    }
    assert {row[0] for row in csv.reader(record.splitlines())} == held
    installed = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(installed), str(made)], check=True)
    assert (installed / "bitsandbytes/libbitsandbytes_cuda130.so").stat().st_size == 1_000


def test_a_library_that_the_wheel_lacks_is_named(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, ["cpu", "cuda126"])
    with pytest.raises(ValueError, match=r"no cuda130, only \['cpu', 'cuda126'\]"):
        trim(wheel, tmp_path / "small", ["cpu", "cuda130"])
    with pytest.raises(ValueError, match="holds the wheel itself"):
        trim(wheel, tmp_path, ["cpu"])


def test_only_wheels_of_what_is_missing_are_installed(tmp_path: Path) -> None:
    names = ("torch-9.0-py3-none-any.whl", "No_Such.Thing-1.0-py3-none-any.whl", "broken.whl")
    for name in names:
        (tmp_path / name).touch()
    missing = set(requirements.find_missing(["torch", "no-such-thing"]))
    assert [path.name for path in requirements.list_wheels(tmp_path, missing)] == [names[1]]

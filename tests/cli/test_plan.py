"""`harness plan MODEL`: what fits where, from a config and headers, and what bad input is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.machine.capacity import CARDS, Growth, Sizes, find_batch, find_context
from tests.support.cells_in_process import write_checkpoint
from tests.support.hub_server import TOKEN, Hub, client_environment, serve_hub
from tests.support.projects import ROOT

KNOWN = json.loads((ROOT / "tests/engines/well_known_models.json").read_text())
GIB = 1 << 30


def write_config(folder: Path, **changes: Any) -> str:
    """Llama-3-8B's config without weights, as a folder to plan."""
    folder.mkdir(exist_ok=True)
    config = {**KNOWN["llama-3-8b"]["config"], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", *arguments]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_room_is_divided_as_on_paper() -> None:
    """1000 bytes of weights, 100 a matrix; 10 a token, 50 a sequence and the matrix for a while."""
    sizes = Sizes({}, "float32", 600, 100, 250, 50, 100, 4, Growth(150, 10, each=50), 64)
    assert (sizes.total, sizes.load_peak, sizes.peak(20, 3)) == (1000, 1100, 1000 + 100 + 3 * 250)
    assert find_context(sizes, 1099, 1) == 0  # it cannot be loaded
    assert find_context(sizes, 1100 + 250, 1) == 20
    assert find_context(sizes, 1100 + 2 * 250, 2) == 20
    assert find_context(sizes, 10_000, 1) == 64  # the model's own
    assert find_batch(sizes, 1100 + 3 * 250 - 1, 20) == 2
    assert find_batch(sizes, 1100 + 3 * 250, 20) == 3


def test_a_config_alone_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, write_config(tmp_path / "llama"), "--context", "8192", "--batch", "2")
    assert sum(found["parameters"].values()) == KNOWN["llama-3-8b"]["parameters"]
    assert found["file_bytes"] is None
    assert list(found["precisions"]["bf16"]["cards"]) == list(CARDS)
    bf16, nf4 = found["precisions"]["bf16"], found["precisions"]["nf4"]
    assert bf16["total_bytes"] == bf16["load_peak_bytes"] == pytest.approx(2 * 8_030_261_248)
    assert bf16["kv_bytes_per_token"] == 131072
    assert not bf16["cards"]["16GB"]["weights_fit"]
    assert bf16["cards"]["16GB"]["largest_context"] == 0
    assert nf4["cards"]["16GB"]["largest_context"] == 8192
    # The whole cache of both sequences, and something for the prompts.
    assert bf16["needed_bytes"] > bf16["total_bytes"] + 2 * 8192 * 131072
    assert found["precisions"]["nf4-dq"]["total_bytes"] < nf4["total_bytes"]
    assert "tf32" in found["precisions"]


def test_gib_and_gb_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_config(tmp_path / "llama")
    for given, size in (("24GiB", 24 * GIB), ("24GB", 24 * 10**9), ("1.5 TB", 1500 * 10**9)):
        cards = plan(capsys, folder, "--vram", given, "--precision", "bf16")["precisions"]
        (card,) = cards["bf16"]["cards"].values()
        assert card["bytes"] == size  # what a user says is free is not made smaller


def test_precisions_are_those_of_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU the unquantised half of an nf4 model is float32, and there is no TF32."""
    of = {
        d: plan(capsys, "builtin:tiny-world", "--device", d)["precisions"] for d in ("cpu", "cuda")
    }
    assert set(of["cuda"]) - set(of["cpu"]) == {"tf32"}
    assert of["cpu"]["nf4"]["unquantised_bytes"] == 2 * of["cuda"]["nf4"]["unquantised_bytes"]
    assert of["cpu"]["nf4"]["quantised_bytes"] == of["cuda"]["nf4"]["quantised_bytes"]


def test_a_person_reads_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "builtin:tiny-world", "--precision", "fp32,nf4", "--vram", "24GiB"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tiny-world: 984 k parameters (131 k embedding, 852 k linear layers, ")
    assert "files: 3.94 MB of F32, on this machine\nmade for up to 512 tokens\n" in shown
    assert (
        "longest context in tokens, 1 sequence at once\nprecision  24GiB\nfp32         512" in shown
    )


def test_an_unknown_cache_is_said_and_not_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_config(tmp_path / "m", model_type="mistral", sliding_window=4096)
    assert main(["plan", folder, "--precision", "bf16"]) == 0
    shown = capsys.readouterr().out
    assert "its cache is no plain one of keys and values" in shown
    assert "longest context" not in shown
    assert plan(capsys, folder)["precisions"]["bf16"]["needed_bytes"] is None


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ("24", "; of what? 24GiB (2³⁰ bytes each) or 24GB (10⁹)"),
        ("24gb", "; did you mean 24GB?"),
        ("24Gib", "; did you mean 24GiB?"),
        ("-1GiB", ""),
        ("0GiB", ""),
        ("much", ""),
    ],
)
def test_a_size_that_is_none(capsys: pytest.CaptureFixture[str], size: str, hint: str) -> None:
    error = refuse(capsys, "builtin:tiny-world", "--vram", size)
    assert f"expected a size such as 24GiB or 24GB, found {size!r}{hint}\n" in error


def test_bad_input_has_a_sentence_and_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or folder: './none'" in refuse(capsys, "./none")
    assert "unknown precision 'nf3'; did you mean" in refuse(
        capsys, "builtin:tiny-world", "--precision", "nf3"
    )
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refuse(capsys, str(tmp_path / "empty"))
    (tmp_path / "empty/config.json").write_text("{}")
    assert "no model can be made of its config" in refuse(capsys, str(tmp_path / "empty"))
    (tmp_path / "empty/config.json").write_text("[")
    assert "config.json is not a readable JSON object" in refuse(capsys, str(tmp_path / "empty"))
    folder = write_config(tmp_path / "llama")
    assert "was made for 8,192 tokens at most" in refuse(capsys, folder, "--context", "8193")
    packed = write_config(tmp_path / "gptq", quantization_config={"quant_method": "gptq"})
    assert "gptq is a checkpoint already quantised (gptq)" in refuse(capsys, packed)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serve_hub() as running:
        folder = write_checkpoint(tmp_path_factory.mktemp("hub") / "tiny")
        running.add("acme/tiny", folder)
        running.add("acme/gated", folder, access="gated")
        yield running


def plan_from(hub: Hub, home: Path, *arguments: str, **extra: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "harness.cli", "plan", *arguments, "--format", "json"]
    environment = client_environment(hub.endpoint, home, **extra)
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout or done.stderr


@pytest.mark.e2e
def test_a_hub_model_is_planned_without_its_weights(hub: Hub, tmp_path: Path) -> None:
    status, text = plan_from(hub, tmp_path, "acme/tiny")
    assert status == 0, text
    found = json.loads(text)
    size = (
        (hub.repositories["models", "acme/tiny"].commits[found["revision"]]) / "model.safetensors"
    )
    assert found["download_bytes"] == found["file_bytes"] == size.stat().st_size
    assert found["precisions"]["fp32"]["total_bytes"] == pytest.approx(
        size.stat().st_size, rel=0.05
    )
    assert not list(tmp_path.rglob("model.safetensors"))
    # Now that the config is known, the hub may be away.
    status, text = plan_from(hub, tmp_path, "acme/tiny", HF_HUB_OFFLINE="1")
    assert status == 0, text
    assert json.loads(text)["download_bytes"] is None


@pytest.mark.e2e
def test_hub_models_that_cannot_be_had(hub: Hub, tmp_path: Path) -> None:
    status, text = plan_from(hub, tmp_path, "acme/none")
    assert status == 4
    assert "acme/none: no such model on the hub, or private and no token given" in text
    status, text = plan_from(hub, tmp_path, "acme/gated")
    assert status == 4
    assert (
        f"acme/gated is gated: accept its terms at {hub.endpoint}/acme/gated and set HF_TOKEN"
        in text
    )
    assert plan_from(hub, tmp_path, "acme/gated", HF_TOKEN=TOKEN)[0] == 0

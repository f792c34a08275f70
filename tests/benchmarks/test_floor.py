"""The floor that `make bench-peers` sets our speed beside: which tokens, which products."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.cells_in_process import load, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from cost.row import Cost, format_costs  # noqa: E402
from peer.bare import keep_states, lay_out_prompts, lay_out_text, run_bare  # noqa: E402
from peer.floor_side import time_pairs  # noqa: E402
from peer.lm_eval_side import find_numbers  # noqa: E402


def test_a_token_is_computed_once_for_each_thing_that_precedes_it() -> None:
    """8 9 are shared by three rows; the 5 behind 8 9 is another than the one behind 8 9 7."""
    rows = [(8, 9, 7, 5), (8, 9, 5), (3,), (8, 9, 7, 6)]
    work = lay_out_prompts(rows, [(0, 1), (1, 1), (0, 3), (2, 0)], longest=100)
    assert work.ids.tolist() == [3, 8, 9, 5, 7, 5, 6]
    # The 9 predicts in two rows and goes through the head once.
    assert work.predicts.tolist() == [True, False, True, False, False, True, False]
    # They look back at 0, 0, 1, 2, 2, 3 and 3 tokens, 11/7 on average; 0 to 3 in rows of 4 at 1.5.
    assert work.length == 4
    assert lay_out_prompts(rows, [], longest=3).length == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("floor"))


def test_the_body_sees_every_token_and_the_head_what_predicts(folder: Path) -> None:
    model: Any = load(folder).model
    fed: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    model.base_model.register_forward_pre_hook(
        lambda _module, _given, named: fed.append(named["input_ids"]), with_kwargs=True
    )
    model.lm_head.register_forward_hook(lambda _module, given, _logits: read.append(given[0]))
    work = lay_out_prompts([(1, *range(5, 150))], [(0, 3), (0, 145)], longest=60)
    run_bare(model, work)
    assert torch.cat([ids.flatten() for ids in fed]).tolist() == [1, *range(5, 150)]
    assert [tuple(ids.shape) for ids in fed] == [(2, 60), (1, 26)]
    states = keep_states(model, work).states
    assert torch.equal(torch.cat(read), states)
    with torch.no_grad():
        alone = model.base_model(input_ids=torch.tensor([[1, 5, 6, 7]])).last_hidden_state[0, -1]
    assert torch.allclose(states[0], alone, atol=1e-5)


def test_beside_a_reference_two_heads_run_on_the_same_tokens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder).model
    work = lay_out_text(range(5, 250), 100)
    reference = keep_states(model, work)
    products: list[tuple[int, ...]] = []
    linear = torch.nn.functional.linear

    def spy(states: torch.Tensor, weight: torch.Tensor, *bias: Any) -> torch.Tensor:
        products.append(tuple(states.shape))
        return linear(states, weight, *bias)

    monkeypatch.setattr("peer.bare.linear", spy)
    run_bare(model, work, reference)
    assert sum(rows for rows, _ in products) == 245


@pytest.mark.parametrize("task", ["perplexity", "divergence"])
def test_ours_and_the_floor_are_timed_as_often(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there were three.\n" * 5, encoding="utf-8")
    options = {"text": str(text), "protocol": "disjoint", "context": 64}
    found = time_pairs(folder, task, options, 3)
    assert {side: len(seconds) for side, seconds in found.items()} == {"ours": 3, "floor": 3}
    assert min(map(min, found.values())) > 0


def test_a_multiple_of_the_floor_is_judged_by_the_median_pair() -> None:
    row = Cost("x", "floor", "s", (10.0, 10.0, 10.0), (12.0, 13.0, 40.0), "ratio", 1.3)
    assert row.relative == pytest.approx([1.2, 1.3, 4.0])
    assert row.verdict == "met"
    line = " ".join(format_costs([row]).splitlines()[1].split())
    assert line == "x 13 s 10 s floor 1.30× (1.20× to 4.00×) < 1.3× met"


def test_several_subjects_of_lm_eval_are_averaged_over_their_items() -> None:
    results = {
        "n-samples": {"peer_mmlu_a": {"effective": 1}, "peer_mmlu_b": {"effective": 3}},
        "results": {
            "peer_mmlu_a": {"alias": "a", "acc,none": 1.0, "acc_stderr,none": 0.1},
            "peer_mmlu_b": {"alias": "b", "acc,none": 0.2, "acc_stderr,none": 0.1},
        },
    }
    assert find_numbers(results, "mmlu") == {"acc": pytest.approx(0.4)}

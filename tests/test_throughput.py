"""throughput: the same tokens as transformers' own generation, and what its rounds amount to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cells_in_process import load, make_context, write_llama
from pydantic import ValidationError
from records import make_record

from harness.errors import InputError
from harness.metrics import throughput
from harness.metrics._forward import is_out_of_memory
from harness.metrics._generate import generate, make_prompt
from harness.metrics.throughput import Options, compare, has_settled, measure, summarise_rounds
from harness.models.load import LoadedCell

EOS = 2
QUICK = {"prompt_tokens": 8, "new_tokens": 3, "min_time_s": 0.0, "warmup_s": 0.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("throughput") / "model")


@pytest.fixture(scope="module")
def cell(checkpoint: Path) -> LoadedCell:
    return load(checkpoint)


def transformers_tokens(model: Any, prompt: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy, without the end-of-text token being suppressed: nothing stops it."""
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=None,
    )
    return out[:, prompt.shape[1] :]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 20), (3, 7)])
def test_tokens_equal_those_of_transformers(
    checkpoint: Path, precision: str, batch: int, length: int
) -> None:
    model = load(checkpoint, precision).model
    prompt = make_prompt(model, batch, length, "cpu")
    tokens, ready = generate(model, prompt, 24)
    assert torch.equal(tokens, transformers_tokens(model, prompt, 24))
    assert len(ready) == 24
    assert ready == sorted(ready)
    assert ready[0] > 0


def test_forced_length_equals_min_new_tokens_where_no_end_comes(cell: LoadedCell) -> None:
    prompt = make_prompt(cell.model, 2, 9, "cpu")
    tokens, _ = generate(cell.model, prompt, 16)
    assert EOS not in tokens
    expected = cell.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=16,
        max_new_tokens=16,
    )
    assert torch.equal(tokens, expected[:, 9:])


def test_the_end_of_text_token_does_not_stop_it(checkpoint: Path) -> None:
    """A head that always answers EOS."""
    model = load(checkpoint).model
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
        tokens, _ = generate(model, torch.tensor([[5, 6]]), 3)
        assert tokens.tolist() == [[0, 0, 0]]  # all equal: the first
        model.config.eos_token_id = model.generation_config.eos_token_id = 0
        tokens, ready = generate(model, torch.tensor([[5, 6]]), 5)
    assert tokens.shape == (1, 5)
    assert len(ready) == 5


def test_the_prompt_is_the_same_every_time_and_within_the_vocabulary(cell: LoadedCell) -> None:
    one, other = (make_prompt(cell.model, 4, 200, "cpu") for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 200)
    assert 0 <= int(one.min()) < int(one.max()) < 264


def test_speeds_by_hand() -> None:
    """Three rounds of N = 5 tokens; medians; TPOT over N - 1 = 4 gaps."""
    rounds = [
        [0.5, 0.6, 0.7, 0.8, 0.9],  # ttft 0.5, tpot 0.1
        [0.4, 0.5, 0.9, 1.0, 1.2],  # ttft 0.4, tpot 0.2
        [0.2, 0.3, 0.4, 0.5, 1.4],  # ttft 0.2, tpot 0.3
    ]
    found = summarise_rounds(rounds, batch=8, prompt_tokens=100)
    assert found == {
        "prefill_tokens_per_s": pytest.approx(8 * 100 / 0.4),
        "decode_tokens_per_s": pytest.approx(8 / 0.2),
        "ttft_s": pytest.approx(0.4),
        "tpot_s": pytest.approx(0.2),
    }


def test_two_tokens_have_one_gap() -> None:
    assert summarise_rounds([[1.0, 1.25]], 1, 10)["tpot_s"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("seconds", "settled"),
    [
        ([], False),
        ([1.0, 1.0, 1.0], False),  # a half-window of one round says nothing
        ([1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0195, 1.0195], True),
        ([1.0, 1.0, 1.0205, 1.0205], False),
        ([1.0, 1.0, 0.9805, 0.9805], True),
        ([1.0, 1.0, 0.9795, 0.9795], False),
        ([9.0, 1.0, 1.0, 1.0, 1.0], True),  # five rounds: the oldest belongs to no half
        ([9.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),  # within six seconds, but for the slow one
        ([1.5, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([1.01, 0.99, 1.03, 1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 1.0, 0.95, 0.95, 0.95], False),
        ([9.0, 9.0, 9.0, 9.0], True),  # rounds longer than the window: four of them
        ([9.0, 9.0, 9.0, 8.0], False),
    ],
)
def test_settled_means_that_the_last_two_halves_agree_to_two_percent(
    seconds: list[float], settled: bool
) -> None:
    assert has_settled(seconds, 6.0) is settled


class Clock:
    """Seconds that pass with each round, instead of those of this machine."""

    def __init__(self, seconds: list[float]) -> None:
        self.now, self.rounds, self._seconds = 0.0, 0, seconds

    def perf_counter(self) -> float:
        return self.now

    def generate(self, *_: Any) -> tuple[None, list[float]]:
        taken = self._seconds[min(self.rounds, len(self._seconds) - 1)]
        self.rounds += 1
        self.now += taken
        return None, [taken / 2, taken]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    clock = Clock(request.param)
    monkeypatch.setattr(throughput, "generate", clock.generate)
    monkeypatch.setattr(throughput.time, "perf_counter", clock.perf_counter)
    return clock


def time_rounds(cell: LoadedCell, **given: Any) -> tuple[int, int, bool]:
    """Rounds of the warm-up, rounds that count, and whether it settled."""
    options = Options(**{"prompt_tokens": 8, "new_tokens": 2, **given})
    rounds, settled = throughput._time_rounds(cell, options, 1)
    return len(rounds), int(settled), settled


@pytest.mark.parametrize("clock", [[1.0]], indirect=True)
@pytest.mark.parametrize(
    ("given", "warmup", "rounds"),
    [
        ({"warmup_s": 2.0}, 4, 10),  # four rounds are the fewest that can agree
        ({"warmup_s": 6.0}, 6, 10),
        ({"warmup_s": 1.0}, 3, 10),  # three times its length
        ({"warmup_s": 6.0, "min_rounds": 3}, 6, 5),  # five seconds
        ({"warmup_s": 6.0, "min_rounds": 3, "min_time_s": 0.0}, 6, 3),
        ({"warmup_s": 6.0, "min_time_s": 25.0}, 6, 25),
        ({"warmup_s": 6.0, "min_rounds": 50}, 6, 30),  # max_time_s
        ({"warmup_s": 6.0, "max_time_s": 0.0}, 6, 3),
    ],
)
def test_how_long_it_goes_on(
    cell: LoadedCell, clock: Clock, given: dict[str, Any], warmup: int, rounds: int
) -> None:
    counted, _, settled = time_rounds(cell, **given)
    assert (clock.rounds - counted, counted) == (warmup, rounds)
    assert settled is (warmup >= 4)


@pytest.mark.parametrize("clock", [[4.0, 3.0, 2.0, 1.9, 1.0, 1.0, 1.0, 1.0, 1.0]], indirect=True)
def test_a_warm_up_goes_on_until_it_settles(cell: LoadedCell, clock: Clock) -> None:
    counted, _, settled = time_rounds(cell, warmup_s=6.0)
    assert settled
    assert clock.rounds - counted == 8  # the last six seconds hold four ones, and 1.9 in no half


@pytest.mark.parametrize("clock", [[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]], indirect=True)
def test_a_speed_that_never_settles_is_flagged(cell: LoadedCell, clock: Clock) -> None:
    options = Options(**{**QUICK, "warmup_s": 1.0, "batch_sizes": (2,)})
    measured = measure(cell, options, make_context(Path("/")))
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == ("batch 2: warm-up ended before the speed had settled",)


def test_every_round_is_kept_and_values_follow_from_them(cell: LoadedCell) -> None:
    options = Options(**QUICK, batch_sizes=(1, 3), min_rounds=4)
    measured = measure(cell, options, make_context(Path("/")))
    assert set(measured.samples) == {"1", "3"}
    assert len(measured.values) == 8
    for batch in (1, 3):
        rounds = measured.samples[str(batch)]
        assert len(rounds["ttft_s"]) == len(rounds["decode_s"]) == 4
        again = [[t, t + d / 2, t + d] for t, d in zip(*rounds.values(), strict=True)]
        for name, expected in summarise_rounds(again, batch, 8).items():
            value = measured.values[f"{name}[{batch}]"]
            assert value.value == pytest.approx(expected)
            assert value.n == 4
            assert value.stderr is None  # rounds of one process are no independent samples
    assert measured.protocol["batch_sizes"] == [1, 3]


def test_a_batch_that_does_not_fit_is_reported_and_the_others_stand(
    cell: LoadedCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the CPU allocator's own, of a batch whose prompt alone needs a petabyte."""
    real = throughput.make_prompt

    def make(model: Any, batch: int, *rest: Any) -> torch.Tensor:
        return torch.empty(1 << 50) if batch == 2 else real(model, batch, *rest)

    monkeypatch.setattr(throughput, "make_prompt", make)
    context = make_context(Path("/"))
    measured = measure(cell, Options(**QUICK, batch_sizes=(1, 2), min_rounds=3), context)
    assert "out of memory at batch 2" in measured.validity.reasons
    assert measured.validity.status == "flagged"
    assert set(measured.samples) == {"1"}
    with pytest.raises(InputError, match="no batch size fits: out of memory at batch 2"):
        measure(cell, Options(**QUICK, batch_sizes=(2,)), context)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_prompt_and_new_tokens_must_fit_the_context(cell: LoadedCell) -> None:
    context = make_context(Path("/"))
    fits = Options(**{**QUICK, "prompt_tokens": 253}, min_rounds=3)
    assert measure(cell, fits, context).values
    with pytest.raises(InputError, match="prompt and new tokens make 257, m has a context of 256"):
        measure(cell, Options(**{**QUICK, "prompt_tokens": 254}), context)


@pytest.mark.parametrize("batch_sizes", [(1, 8, 1), (0,), (4, -1), ()])
def test_batch_sizes_are_distinct_and_positive(batch_sizes: tuple[int, ...]) -> None:
    Options(batch_sizes=(1, 8))
    with pytest.raises(ValidationError):
        Options(batch_sizes=batch_sizes)


def test_speedups_are_given_for_the_batch_sizes_of_both() -> None:
    def record(**values: Any) -> Any:
        return make_record("throughput", values=values)

    candidate = record(
        **{"decode_tokens_per_s[1]": 30.0, "decode_tokens_per_s[8]": 80.0, "tpot_s[1]": 0.1}
    )
    reference = record(**{"decode_tokens_per_s[1]": 20.0, "prefill_tokens_per_s[1]": 5.0})
    found = compare(candidate, reference)
    assert {name: value.value for name, value in found.items()} == {"decode_speedup[1]": 1.5}

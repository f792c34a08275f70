"""Distributions compared in float32 where they are near, and as exactly as in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.engines.shared.likeliest import find_likeliest
from harness.scoring.compare_distributions import compare_logits

VOCABULARY = 5003  # neither a square nor a multiple of anything


def make_logits(
    rows: int, spread: float, noise: float, shift: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A model's logits, those of another model, and the true tokens."""
    draw = torch.Generator().manual_seed(0)
    reference = torch.randn(rows, VOCABULARY, generator=draw) * spread
    other = reference + torch.randn(rows, VOCABULARY, generator=draw) * noise + shift
    return reference, other, torch.randint(0, VOCABULARY, (rows,), generator=draw)


def compute_by_numpy(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor
) -> np.ndarray[tuple[int, ...], np.dtype[np.longdouble]]:
    """KL, agreement and Δp (3, n) in more than float64."""
    log_p, log_q = (_log_softmax(x.numpy().astype(np.longdouble)) for x in (reference, other))
    p, q = np.exp(log_p), np.exp(log_q)
    each = np.arange(len(p))
    return np.stack(
        [
            (p * (log_p - log_q)).sum(-1),
            p.argmax(-1) == q.argmax(-1),
            (q - p)[each, targets.numpy()],
        ]
    )


def _log_softmax(x: np.ndarray[tuple[int, ...], np.dtype[np.longdouble]]) -> np.ndarray:  # type: ignore[type-arg]
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.01, 2.0, 8.0])
@pytest.mark.parametrize("shift", [0.0, -20.0])
def test_means_are_within_a_millionth_of_exact_ones(
    spread: float, noise: float, shift: float
) -> None:
    given = make_logits(300, spread, noise, shift)
    found, expected = compare_logits(*given).numpy(), compute_by_numpy(*given)
    assert found.dtype == np.float64
    apart = found - expected
    assert abs(apart[0].mean()) < 1e-7
    assert np.abs(apart[0]).max() < 1e-6
    assert (apart[1] == 0).all()
    assert np.abs(apart[2]).max() < 1e-7
    assert (found[0] >= 0).all()


def test_models_very_near_each_other_keep_their_digits() -> None:
    """Logits in float32 differ by 1e-4 here: a divergence of 5e-9 nats, far below float32's own."""
    given = make_logits(50, 2.0, 1e-4)
    found, expected = compare_logits(*given)[0].numpy(), compute_by_numpy(*given)[0]
    assert expected.mean() < 1e-8
    assert found == pytest.approx(expected.astype(float), rel=0.02)


def test_a_model_is_no_nat_from_itself() -> None:
    reference, _, targets = make_logits(20, 3.0, 0)
    assert compare_logits(reference, reference.clone(), targets)[0].tolist() == [0.0] * 20
    assert compare_logits(reference, reference + 3, targets)[0].max() < 1e-12


def test_what_the_reference_thinks_impossible_may_be_the_others_favourite() -> None:
    """e^-150 is nothing in float32; under the other model it is nearly everything."""
    reference, other, targets = make_logits(3, 1.0, 0.1)
    reference[:, 7], other[:, 7] = -150.0, 15.0
    targets[:] = 7
    found = compare_logits(reference, other, targets).numpy()
    expected = compute_by_numpy(reference, other, targets).astype(float)
    assert expected[2].min() > 0.9
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_single_token_far_off_does_not_change_how_its_neighbours_are_compared() -> None:
    given = make_logits(6, 2.0, 0.1)
    alone = compare_logits(*given)
    given[1][2, 11] += 70
    beside = compare_logits(*given)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(beside[:, others], alone[:, others])
    assert beside[0, 2] == pytest.approx(compute_by_numpy(*given)[0, 2], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_compared_as_the_numbers_they_are(dtype: torch.dtype) -> None:
    reference, other, targets = make_logits(20, 2.0, 0.1)
    low = (reference.to(dtype), other.to(dtype))
    expected = compute_by_numpy(*(x.float() for x in low), targets)
    assert compare_logits(*low, targets).numpy() == pytest.approx(expected.astype(float), abs=1e-7)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 99, 100, 101, 50257])
def test_the_likeliest_token_is_the_first_of_the_largest(size: int) -> None:
    draw = torch.Generator().manual_seed(size)
    logits = torch.randint(0, 4, (64, size), generator=draw).float()  # ties everywhere
    logits[0] = -float("inf")
    logits[1, -1] = 9
    assert torch.equal(find_likeliest(logits), logits.argmax(-1))
    logits[2:4, size // 2] = float("nan")
    assert torch.equal(find_likeliest(logits), logits.argmax(-1))

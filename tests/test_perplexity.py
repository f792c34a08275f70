"""perplexity: which tokens are scored, against what they are checked, and how the text is read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from cells_in_process import load, make_context, write_checkpoint, write_llama, write_tokenizer
from pydantic import ValidationError
from records import make_record
from scipy import stats

from harness.errors import InputError
from harness.metrics import _forward
from harness.metrics.perplexity import (
    Options,
    Window,
    compare,
    encode_with_byte_ends,
    measure,
    plan_windows,
    ratio_of_sums,
)
from harness.models.load import LoadedCell
from harness.options import DataSource
from harness.record import Measured
from harness.tasks._data import load_text

TEXT = "Once upon a time — there was a naïve 🦙 who counted: one, two, three.\n" * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perplexity")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_checkpoint(folder / "model")
    return folder


@pytest.fixture(scope="module")
def cell(folder: Path) -> LoadedCell:
    return load(folder / "model")


def run(cell: LoadedCell, folder: Path, text: str = "text.txt", **options: Any) -> Measured:
    given = Options(text=DataSource(path=text), **options)
    return measure(cell, given, make_context(folder))


def numbers(measured: Measured) -> dict[str, Any]:
    return {name: value.value for name, value in measured.values.items()}


def options(context: int, stride: int | None = None, protocol: str = "sliding") -> Options:
    source = DataSource(path="x.txt")
    return Options(text=source, context=context, stride=stride, protocol=protocol)


# Windows


def scored_tokens(windows: list[Window]) -> list[int]:
    return [token for w in windows for token in range(w.stop - w.scored, w.stop)]


@pytest.mark.parametrize("tokens", [2, 3, 7, 8, 9, 10, 11, 12, 13, 16, 17, 40])
@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_sliding_scores_every_token_but_the_first_once(tokens: int, stride: int) -> None:
    windows = plan_windows(tokens, options(8, stride))
    assert scored_tokens(windows) == list(range(1, tokens))
    assert all(w.stop - w.start <= 8 and w.scored < w.stop - w.start for w in windows)


@pytest.mark.parametrize("tokens", [9, 12, 13, 40])
def test_sliding_gives_each_token_the_context_of_the_first_window_that_reaches_it(
    tokens: int,
) -> None:
    windows = plan_windows(tokens, options(8, 4))
    assert [w.start for w in windows] == [4 * i for i in range(len(windows))]
    assert all(w.stop - w.start == 8 for w in windows[:-1])
    assert windows[-1].stop == tokens


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (2, [Window(0, 2, 1)]),
        (7, [Window(0, 7, 6)]),
        (8, [Window(0, 8, 7)]),
        (9, [Window(0, 8, 7), Window(4, 9, 1)]),
        (12, [Window(0, 8, 7), Window(4, 12, 4)]),
        (13, [Window(0, 8, 7), Window(4, 12, 4), Window(8, 13, 1)]),
    ],
)
def test_sliding_at_the_edges(tokens: int, expected: list[Window]) -> None:
    assert plan_windows(tokens, options(8, 4)) == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (2, [Window(0, 2, 1)]),
        (7, [Window(0, 7, 6)]),
        (8, [Window(0, 8, 7)]),
        (9, [Window(0, 8, 7)]),  # a last window of one token has nothing to predict it from
        (10, [Window(0, 8, 7), Window(8, 10, 1)]),
        (16, [Window(0, 8, 7), Window(8, 16, 7)]),
        (17, [Window(0, 8, 7), Window(8, 16, 7)]),
    ],
)
def test_disjoint_at_the_edges(tokens: int, expected: list[Window]) -> None:
    assert plan_windows(tokens, options(8, protocol="disjoint")) == expected


@pytest.mark.parametrize("tokens", [7, 8, 9, 10, 16, 17, 18])
def test_a_stride_of_the_whole_context_is_disjoint(tokens: int) -> None:
    assert plan_windows(tokens, options(8, 8)) == plan_windows(
        tokens, options(8, protocol="disjoint")
    )


@pytest.mark.parametrize(("context", "stride"), [(2, 1), (3, 1), (8, 4), (9, 4)])
def test_the_stride_is_half_the_context_unless_given(context: int, stride: int) -> None:
    assert plan_windows(50, options(context)) == plan_windows(50, options(context, stride))


def test_a_stride_that_skips_tokens_is_refused() -> None:
    options(8, 8)
    with pytest.raises(ValidationError, match="stride 9 is larger than context 8"):
        options(8, 9)
    with pytest.raises(ValidationError, match="stride is only for protocol 'sliding'"):
        options(8, 4, "disjoint")


# Against an independent computation


def nll_of_last(model: Any, ids: list[int], scored: int) -> list[float]:
    """-log p of the last ``scored`` of these tokens, by numpy in float64 from the full logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy().astype(np.float64)
    log_z = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return [log_z[i - 1] - logits[i - 1, ids[i]] for i in range(len(ids) - scored, len(ids))]


def test_one_window_equals_an_independent_computation(cell: LoadedCell, folder: Path) -> None:
    (folder / "short.txt").write_text(TEXT[:60], encoding="utf-8")
    found = numbers(run(cell, folder, "short.txt", context=256))
    ids = cell.require_tokenizer()(TEXT[:60])["input_ids"]
    expected = nll_of_last(cell.model, ids, len(ids) - 1)
    assert found["tokens"] == len(expected) == len(ids) - 1
    assert found["nll"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert found["ppl"] == pytest.approx(np.exp(np.mean(expected)), rel=1e-6)
    size = len(TEXT[:60].encode())
    assert found["bits_per_byte"] == pytest.approx(sum(expected) / math.log(2) / size, rel=1e-6)


def test_disjoint_windows_equal_an_independent_computation(cell: LoadedCell, folder: Path) -> None:
    measured = run(cell, folder, protocol="disjoint", context=32)
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    chunks = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    expected = [sum(nll_of_last(cell.model, c, len(c) - 1)) for c in chunks if len(c) > 1]
    counts = [len(c) - 1 for c in chunks if len(c) > 1]
    assert measured.items["chunk_tokens"] == counts
    assert measured.items["chunk_nll"] == pytest.approx(expected, rel=1e-6)
    assert numbers(measured)["nll"] == pytest.approx(sum(expected) / sum(counts), rel=1e-6)


@pytest.mark.parametrize(("context", "stride"), [(24, 1), (24, 5), (32, 16)])
def test_sliding_equals_a_loop_over_tokens(
    cell: LoadedCell, folder: Path, context: int, stride: int
) -> None:
    """Token t is predicted from all that precedes it in the first window that holds it."""
    ids = cell.require_tokenizer()(TEXT)["input_ids"][:120]
    text = cell.require_tokenizer().decode(ids[1:])
    (folder / "loop.txt").write_text(text, encoding="utf-8")
    ids = cell.require_tokenizer()(text)["input_ids"]
    total = 0.0
    for t in range(1, len(ids)):
        windows_before = max(0, -(-(t + 1 - context) // stride))
        start = windows_before * stride
        total += nll_of_last(cell.model, ids[start : t + 1], 1)[0]
    found = numbers(run(cell, folder, "loop.txt", context=context, stride=stride))
    assert found["tokens"] == len(ids) - 1
    assert found["nll"] == pytest.approx(total / (len(ids) - 1), rel=1e-6)


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_batching_changes_nothing(cell: LoadedCell, folder: Path, batch_size: int) -> None:
    alone = run(cell, folder, context=32, stride=8, batch_size=1)
    together = run(cell, folder, context=32, stride=8, batch_size=batch_size)
    assert together.items["chunk_nll"] == pytest.approx(alone.items["chunk_nll"], rel=1e-6)
    assert together.items["chunk_tokens"] == alone.items["chunk_tokens"]
    assert together.protocol == alone.protocol


def test_logits_that_do_not_fit_are_computed_in_smaller_batches(
    cell: LoadedCell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(cell, folder, context=32, stride=8)
    monkeypatch.setattr(_forward, "_MAX_LOGIT_BYTES", 4 * 264 * 8 * 2)
    assert _forward.batch_for_logits(cell.model, 8, 5) == 2
    assert _forward.batch_for_logits(cell.model, 9, 5) == 1
    assert _forward.batch_for_logits(cell.model, 900, 5) == 1
    found = run(cell, folder, context=32, stride=8)
    assert found.items["chunk_nll"] == pytest.approx(wanted.items["chunk_nll"], rel=1e-6)


def test_a_model_that_cannot_keep_some_logits_gives_the_same(cell: LoadedCell) -> None:
    class Plain(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return cell.model(input_ids=input_ids, use_cache=use_cache)

    ids, positions = torch.arange(3, 15).reshape(2, 6), torch.tensor([1, 4])
    kept = _forward.logits_at(cell.model, ids, positions)
    assert kept.shape == (2, 2, 264)
    torch.testing.assert_close(_forward.logits_at(Plain(), ids, positions), kept)


def test_the_protocol_names_everything_the_number_depends_on(
    cell: LoadedCell, folder: Path
) -> None:
    measured = run(cell, folder, context=32, stride=8, batch_size=3)
    assert measured.protocol == {
        "text": {"path": "text.txt", "name": None, "split": None, "column": None, "revision": None},
        "protocol": "sliding",
        "context": 32,
        "stride": 8,
        "text_sha256": load_text(DataSource(path="text.txt"), make_context(folder))[1],
        "text_tokens": len(cell.require_tokenizer()(TEXT)["input_ids"]),
        "tokenizer_sha256": cell.job.files.tokenizer_sha256,
    }


# Bytes


@pytest.mark.parametrize("bos", [True, False])
def test_scored_bytes_are_those_of_the_scored_tokens(tmp_path: Path, bos: bool) -> None:
    """🦙 is four tokens of one character; its bytes count once, wherever a window ends in it."""
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=bos)
    cell = load(tmp_path / "model")
    text = "a🦙é\n"
    ids, ends = encode_with_byte_ends(cell.require_tokenizer(), text)
    assert len(ids) == len(text.encode()) + bos
    assert ends == [0] * bos + [1, 5, 5, 5, 5, 7, 7, 8]
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    for stride in (1, 2, 3):
        found = run(cell, tmp_path, context=4, stride=stride)
        scored = 8 if bos else 7  # without BOS nothing predicts the first byte
        bits = sum(found.items["chunk_nll"]) / math.log(2)
        assert numbers(found)["bits_per_byte"] == pytest.approx(bits / scored, rel=1e-12)


def test_an_end_of_text_token_adds_no_bytes(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", eos=True)
    _, ends = encode_with_byte_ends(load(tmp_path / "model").require_tokenizer(), "ab")
    assert ends == [0, 1, 2, 2]


def test_without_offsets_the_bytes_are_spread_evenly_and_none_is_lost() -> None:
    class Slow:
        is_fast = False

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, 2, 3]}

    ids, ends = encode_with_byte_ends(Slow(), "é🦙ab")
    assert (ids, ends) == ([1, 2, 3], [2, 5, 8])


# Spread


def test_ratio_of_sums_by_hand() -> None:
    """mean 12/6 = 2; residuals 1, -2, 1; SE = sqrt(6 * 3/2) / 6 = 0.5."""
    assert ratio_of_sums([3.0, 2.0, 7.0], [1, 2, 3]) == (2.0, 0.5)


def test_a_single_chunk_has_no_spread() -> None:
    assert ratio_of_sums([6.0], [3]) == (2.0, None)
    assert ratio_of_sums([6.0, 6.0], [3, 3]) == (2.0, 0.0)


def test_chunks_of_one_size_give_the_standard_error_of_their_means() -> None:
    means = np.random.default_rng(0).normal(3, 0.4, 40)
    mean, stderr = ratio_of_sums(list(means * 16), [16] * 40)
    assert mean == pytest.approx(means.mean())
    assert stderr == pytest.approx(stats.sem(means), rel=1e-12)


def test_the_spread_of_unequal_chunks_agrees_with_a_bootstrap() -> None:
    random = np.random.default_rng(1)
    counts = random.integers(5, 60, 400)
    sums = counts * random.normal(3, 0.5, 400)

    def ratio(s: Any, c: Any, axis: int = -1) -> Any:
        return s.sum(axis) / c.sum(axis)

    resampled = stats.bootstrap(
        (sums, counts), ratio, paired=True, n_resamples=2000, method="basic", rng=random
    )
    _, stderr = ratio_of_sums(list(sums), [int(c) for c in counts])
    assert stderr == pytest.approx(resampled.standard_error, rel=0.08)


def test_values_carry_their_spread_and_the_number_of_chunks(cell: LoadedCell, folder: Path) -> None:
    measured = run(cell, folder, context=32, stride=16)
    sums, counts = measured.items["chunk_nll"], measured.items["chunk_tokens"]
    nll, stderr = ratio_of_sums(sums, counts)
    assert measured.values["nll"].stderr == stderr
    assert measured.values["ppl"].stderr == pytest.approx(math.exp(nll) * stderr)
    assert measured.values["nll"].n == measured.values["ppl"].n == len(sums)
    assert measured.values["ppl"].better == "lower"


# Beside the reference


def chunk_record(nll: list[float], tokens: list[int]) -> Any:
    return make_record("perplexity", items={"chunk_nll": nll, "chunk_tokens": tokens})


def test_the_ratio_is_paired_by_chunk() -> None:
    """Differences 1, 0, 2 on 1, 2, 3 tokens: mean 0.5; residuals 0.5, -1, 0.5; SE 0.25."""
    reference = chunk_record([10.0, 1.0, 5.0], [1, 2, 3])
    candidate = chunk_record([11.0, 1.0, 7.0], [1, 2, 3])
    ratio = compare(candidate, reference)["ratio"]
    assert ratio.value == pytest.approx(math.exp(0.5))
    assert ratio.stderr == pytest.approx(math.exp(0.5) * 0.25)
    assert ratio.n == 3


def test_equal_records_have_a_ratio_of_exactly_one() -> None:
    record = chunk_record([10.1, 1.7], [3, 4])
    assert compare(record, record)["ratio"].value == 1.0
    assert compare(record, record)["ratio"].stderr == 0.0


def test_the_ratio_is_that_of_the_perplexities(folder: Path, cell: LoadedCell) -> None:
    reference = run(cell, folder, context=64)
    candidate = run(load(folder / "model", "nf4"), folder, context=64)
    ratio = compare(
        make_record("perplexity", measured=candidate), make_record("perplexity", measured=reference)
    )["ratio"]
    expected = numbers(candidate)["ppl"] / numbers(reference)["ppl"]
    assert ratio.value == pytest.approx(expected, rel=1e-9)
    assert ratio.value != 1.0


@pytest.mark.parametrize(
    "other", [chunk_record([1.0], [2]), make_record("perplexity"), chunk_record([1.0, 2.0], [1, 3])]
)
def test_records_of_other_chunks_have_no_ratio(other: Any) -> None:
    assert compare(chunk_record([1.0, 2.0], [1, 2]), other) == {}
    assert compare(other, chunk_record([1.0, 2.0], [1, 2])) == {}


# What cannot be measured


def test_nan_is_counted_and_makes_the_record_invalid(tmp_path: Path, folder: Path) -> None:
    """One token's embedding is NaN, and with it, through attention, the window that holds it."""
    from safetensors.torch import load_file, save_file

    write_checkpoint(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    spoilt = load(tmp_path / "model").require_tokenizer()("X")["input_ids"][-1]
    weights["model.embed_tokens.weight"][spoilt] = math.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "text.txt").write_text("a b X d e f")  # 12 tokens with BOS
    measured = run(load(tmp_path / "model"), tmp_path, context=8, protocol="disjoint")
    assert measured.validity.status == "invalid"
    assert measured.validity.reasons == ("7 of 10 tokens have a NaN or infinite log-likelihood",)
    found = numbers(measured)
    assert (found["nonfinite_tokens"], found["tokens"]) == (7, 10)
    assert found["ppl"] is found["nll"] is found["bits_per_byte"] is None
    record = make_record("perplexity", measured=measured)
    assert compare(record, chunk_record([1.0, 1.0], [7, 3])) == {}
    healthy = run(load(folder / "model"), tmp_path, context=8, protocol="disjoint")
    assert numbers(healthy)["nonfinite_tokens"] == 0
    assert healthy.validity.status == "ok"


def test_a_context_longer_than_the_model_is_refused(cell: LoadedCell, folder: Path) -> None:
    run(cell, folder, context=256)
    with pytest.raises(InputError, match="context 257 is longer than the 256 tokens that m was"):
        run(cell, folder, context=257)


def test_a_text_of_one_token_has_nothing_to_score(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=False)
    cell = load(tmp_path / "model")
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "two.txt").write_text("ab")
    with pytest.raises(InputError, match=r"'one\.txt' has 1 token; nothing can be scored"):
        run(cell, tmp_path, "one.txt", context=8)
    assert numbers(run(cell, tmp_path, "two.txt", context=8))["tokens"] == 1


# Reading texts


def read(folder: Path, name: str, **source: Any) -> str:
    return load_text(DataSource(path=name, **source), make_context(folder))[0]


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb\n\n",
        b"a\nb",
        b"a\r\nb\r\n",
        b"a\rb\x0c\x0bc",
        "é🦙\u2028\x85\n\n\n".encode(),
        b"\n a",
    ],
    ids=["trailing", "no end", "CRLF", "CR", "unicode", "leading"],
)
def test_a_text_file_is_read_byte_for_byte(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.raw").write_bytes(content)
    assert read(tmp_path, "text.raw").encode() == content


@pytest.mark.parametrize("content", [b"", b" \n\r\n"])
def test_an_empty_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"text 'text\.txt' is empty"):
        read(tmp_path, "text.txt")


def test_a_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(InputError, match=r"text 'text\.txt' is not UTF-8: .* position 2"):
        read(tmp_path, "text.txt")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    with pytest.raises(InputError, match="'texts' is a folder; name a file in it"):
        read(tmp_path, "texts")


ROWS = ["one", "None", "NA", "0.10", "", 'a "b", c', "é🦙"]


def write_rows(folder: Path, suffix: str, column: str, rows: list[Any]) -> None:
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        quoted = ['"' + row.replace('"', '""') + '"' for row in rows]
        path.write_text("id," + column + "\n" + "".join(f"1,{row}\n" for row in quoted))
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps({"id": 1, column: row}) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.table({"id": [1] * len(rows), column: rows}), path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_are_joined_by_blank_lines_and_kept_as_they_are(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "text", ROWS)
    assert read(tmp_path, f"rows{suffix}") == "\n\n".join(ROWS)
    write_rows(tmp_path, suffix, "page", ROWS)
    assert read(tmp_path, f"rows{suffix}", column="page") == "\n\n".join(ROWS)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_missing_column_is_answered_with_those_there_are(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "page", ROWS)
    with pytest.raises(InputError, match=rf"'rows{suffix}' has no column 'text'; it has id, page"):
        read(tmp_path, f"rows{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_cell_without_text_is_refused_by_row(tmp_path: Path, suffix: str) -> None:
    write_rows(tmp_path, suffix, "text", ["one", None, "three"])
    with pytest.raises(InputError, match=rf"'rows{suffix}', row 2: column 'text' holds None"):
        read(tmp_path, f"rows{suffix}")


def test_a_csv_row_with_one_cell_too_many_is_refused_by_row(tmp_path: Path) -> None:
    """pandas alone would shift every cell of the file by one."""
    (tmp_path / "rows.csv").write_text("id,text\n1,a,b\n2,c,d\n")
    with pytest.raises(InputError, match=r"rows\.csv, row 2: expected 2 columns, found 3"):
        read(tmp_path, "rows.csv")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "x"\n')
    with pytest.raises(InputError, match=f"cannot read .*{name}"):
        read(tmp_path, name)

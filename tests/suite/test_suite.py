"""Suite files: what is accepted, what it is read as, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from harness.suite.models import Architecture, resolved, suite_sha256
from harness.suite.read import load_suite
from tests.support.suite_files import (
    PERPLEXITY,
    RANDOM,
    THROUGHPUT,
    load,
    load_parts,
    suite_text,
    write,
)

SUITES = Path(__file__).parents[2] / "suites"


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_suite_loads_and_is_named_like_its_file(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    assert suite.description
    assert suite.limits


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    suite = load_parts(tmp_path)
    [model] = suite.models
    assert (model.revision, model.seed, model.requires.device) == (None, 0, None)
    assert [(p.name, p.use) for p in suite.precisions] == [("fp32", "fp32"), ("nf4", "nf4")]
    assert suite.precisions[1].options.model_dump()["double_quant"] is False
    assert [m.name for m in suite.measurements] == ["footprint"]
    assert suite.limits == ()
    assert suite.folder == tmp_path / "suites"


def test_a_suite_is_frozen(tmp_path: Path) -> None:
    suite = load_parts(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        suite.name = "other"


def test_a_precision_under_a_name_of_its_own_gets_its_options(tmp_path: Path) -> None:
    suite = load_parts(
        tmp_path, precisions="precisions: [fp32, {name: nf4-dq, use: nf4, double_quant: true}]"
    )
    assert suite.precisions[1].name == "nf4-dq"
    assert suite.precisions[1].use == "nf4"
    assert suite.precisions[1].options.model_dump()["double_quant"] is True


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("6GiB", 6 * 2**30),
        ("6 GiB", 6 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("500MB", 500_000_000),
        ("123456", 123456),
        ("7B", 7),
    ],
)
def test_memory_is_read_as_bytes(tmp_path: Path, written: str, expected: int) -> None:
    models = f"models: [{{name: m, source: org/m, requires: {{memory: {written}}}}}]"
    assert load_parts(tmp_path, models=models).models[0].requires.memory == expected


def test_a_random_model_keeps_its_architecture_nested_fields_included(tmp_path: Path) -> None:
    source = "{architecture: llama, hidden_size: 8, eos_token_id: [1, 2], rope: {factor: 1e-3}}"
    models = f"models: [{{name: r, source: {source}, weights: random, seed: 3}}]"
    model = load_parts(tmp_path, models=models).models[0]
    assert isinstance(model.source, Architecture)
    assert model.source.model_dump() == {
        "architecture": "llama",
        "hidden_size": 8,
        "eos_token_id": [1, 2],
        "rope": {"factor": 0.001},
    }


def test_local_paths_are_relative_to_the_suite(tmp_path: Path) -> None:
    (tmp_path / "suites" / "model").mkdir(parents=True)
    (tmp_path / "suites" / "text.txt").write_text("hello")
    load_parts(
        tmp_path,
        models="models: [{name: m, source: ./model, tokenizer: model}]",
        measure="measure: {perplexity: {text: text.txt}}",
    )


def test_a_random_model_may_read_texts_with_a_tokenizer(tmp_path: Path) -> None:
    models = f"models: [{RANDOM[:-1]}, tokenizer: 'builtin:tiny-world'}}]"
    assert load_parts(tmp_path, models=models, measure=f"measure: {{{PERPLEXITY}}}").models


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        name: s
        models:
          - &first {name: a, source: org/a, requires: &gpu {device: cuda, memory: 1GiB}}
          - {<<: *first, name: b}
          - {name: c, source: org/c, requires: &both {<<: [{device: cpu}, *gpu], memory: 2GiB}}
          - {name: d, source: org/d, requires: *both}
        precisions: [fp32]
        measure: {footprint: }
        """)
    first, second, third, fourth = load(tmp_path, text).models
    assert second == first.model_copy(update={"name": "b"})
    assert (third.requires.device, third.requires.memory) == ("cpu", 2 * 2**30)
    assert fourth.requires == third.requires


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbf" + suite_text().replace("\n", "\r\n").encode())
    assert load_suite(path).name == "s"


def test_a_date_or_a_quoted_number_is_text(tmp_path: Path) -> None:
    models = "models: [{name: '7', source: org/m, revision: 2024-01-31}]"
    model = load_parts(tmp_path, models=models).models[0]
    assert (model.name, model.revision) == ("7", "2024-01-31")


def test_a_limit_without_names_bounds_every_model_and_all_but_the_reference(
    tmp_path: Path,
) -> None:
    [limit] = load_parts(
        tmp_path,
        precisions="precisions: [nf4, fp32, bf16]",
        limits="limits: [{metric: footprint.size_ratio, max: 1}]",
    ).limits
    assert limit.precision == ("nf4", "bf16")
    assert limit.model == ("m",)
    assert (limit.max, limit.min) == (1.0, None)
    assert (limit.family, limit.value, limit.qualifier) == ("footprint", "size_ratio", None)
    assert limit.position == "suites/x.yaml:6:10"


def test_a_limit_without_names_bounds_all_where_there_is_no_reference(tmp_path: Path) -> None:
    limits = "limits: [{metric: footprint.total_bytes, max: 1}]"
    [limit] = load_parts(tmp_path, reference=None, limits=limits).limits
    assert limit.precision == ("fp32", "nf4")


@pytest.mark.parametrize("metric", ["throughput.tpot_s[8]", "throughput.decode_speedup[1]"])
def test_a_limit_may_name_a_measured_batch_size(tmp_path: Path, metric: str) -> None:
    [limit] = load_parts(
        tmp_path,
        measure=f"measure: {{{THROUGHPUT}}}",
        limits=f"limits: [{{metric: '{metric}', min: 1}}]",
    ).limits
    assert limit.qualifier == metric[-2]


@pytest.mark.parametrize("metric", ["mmlu.acc", "mmlu.acc[anatomy]"])
def test_a_limit_may_bound_all_subjects_or_one(tmp_path: Path, metric: str) -> None:
    limits = f"limits: [{{metric: '{metric}', min: 0.5, max: 0.5}}]"
    [limit] = load_parts(tmp_path, measure="measure: {mmlu: }", limits=limits).limits
    assert limit.metric == metric


def test_limits_on_other_cells_values_or_sides_do_not_clash(tmp_path: Path) -> None:
    limits = textwrap.dedent("""\
        limits:
          - {metric: footprint.total_bytes, precision: nf4, max: 5}
          - {metric: footprint.total_bytes, precision: fp32, max: 5}
          - {metric: footprint.weights_bytes, precision: nf4, max: 5}
          - {metric: footprint.total_bytes, precision: nf4, min: 5}
          - {metric: 'throughput.tpot_s[1]', max: 5}
          - {metric: 'throughput.tpot_s[8]', max: 5}""")
    suite = load_parts(tmp_path, measure=f"measure: {{footprint: , {THROUGHPUT}}}", limits=limits)
    assert len(suite.limits) == 6


def test_resolved_is_plain_json_with_defaults_and_without_places(tmp_path: Path) -> None:
    limits = "limits: [{metric: footprint.total_bytes, max: 1}]"
    plain = resolved(load_parts(tmp_path, limits=limits))
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["precisions"][1] == {
        "name": "nf4",
        "use": "nf4",
        "options": {"double_quant": False, "compute_dtype": None},
        "engine": "transformers",
    }
    assert "path" not in plain
    assert "position" not in plain["limits"][0]


def test_the_hash_ignores_folder_layout_and_spelling(tmp_path: Path) -> None:
    short = load_parts(tmp_path, measure=f"measure: {{{PERPLEXITY}}}")
    (tmp_path / "elsewhere").mkdir()
    long = load_parts(
        tmp_path / "elsewhere",
        models=None,
        measure=textwrap.dedent("""\
            # a comment
            measure:
              perplexity:
                stride:
                context: 8
                text: {path: "builtin:tiny-world/heldout"}
            models:
              - source: builtin:tiny-world
                name: m"""),
    )
    assert suite_sha256(short) == suite_sha256(long)


def test_the_hash_sees_a_changed_option(tmp_path: Path) -> None:
    one = load_parts(tmp_path, measure="measure: {memory: {batch_size: 1}}")
    two = load_parts(tmp_path, measure="measure: {memory: {batch_size: 2}}")
    assert suite_sha256(one) != suite_sha256(two)


def test_resolved_hides_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    suite = load_parts(tmp_path, models=f"models: [{{name: m, source: {tmp_path}/model}}]")
    assert resolved(suite)["models"][0]["source"] == "~/model"


def test_a_large_suite_loads(tmp_path: Path) -> None:
    models = "models:\n" + "".join(
        f"- {{name: m{i}, source: org/m{i}, requires: {{device: cuda, memory: 6GiB}}}}\n"
        for i in range(150)
    )
    assert len(load_parts(tmp_path, models=models).models) == 150


def test_a_precision_may_name_its_engine(tmp_path: Path) -> None:
    precisions = "precisions: [fp32, {name: nf4, engine: transformers}]"
    assert load_parts(tmp_path, precisions=precisions).precisions[1].engine == "transformers"


def test_importing_and_loading_brings_in_no_heavy_library() -> None:
    code = (
        "import sys; from pathlib import Path; from harness.suite.read import load_suite;"
        "import harness.suite.cells, harness.cli.schema;"
        f"load_suite(Path({str(SUITES / 'smoke.yaml')!r}));"
        "print([m for m in ('torch', 'transformers', 'datasets', 'evaluate') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=SUITES.parent,
    )
    assert done.stdout.strip() == "[]"

"""Mistakes in suite files: what is said about each, and exactly where."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from harness.suite.read import SuiteError, load_suite
from tests.support.suite_files import (
    PERPLEXITY,
    RANDOM,
    THROUGHPUT,
    check_marked,
    errors_of,
    load_parts,
    shorten,
    strip_marks,
    suite_text,
    write,
)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match=r"^suites/no\.yaml:1:1: .*no such file$"):
        load_suite(tmp_path / "suites" / "no.yaml", tmp_path)


def test_a_folder_is_not_a_suite(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(SuiteError, match=r"^x:1:1: cannot read the suite: Is a directory$"):
        load_suite(tmp_path / "x", tmp_path)


def test_a_path_outside_the_root_is_shown_whole(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    with pytest.raises(SuiteError) as caught:
        load_suite(path, tmp_path / "elsewhere")
    assert str(caught.value).startswith(f"{path}:1:1: ")


def test_a_file_that_is_not_utf8_is_refused_at_the_byte(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_bytes("# é\nname: caf\xe9\n".encode("latin-1").replace(b"# \xe9", b"# \xc3\xa9"))
    with pytest.raises(SuiteError, match=r"^suites/x\.yaml:2:10: not UTF-8 text: byte 0xe9"):
        load_suite(path, tmp_path)


@pytest.mark.parametrize(
    ("marked", "parts"),
    [
        ("▼", ["expected a mapping", "found an empty file"]),
        ("▼# only a comment\n", ["found an empty file"]),
        ("▼- a\n- b\n", ["expected a mapping", "found a list"]),
        ("▼just text\n", ["found the string 'just text'"]),
        ("name: s\n▼\tmodels: 3\n", ["YAML forbids tabs", "use spaces"]),
        ("models:\n▼\t- a\n", ["YAML forbids tabs"]),
        ("models:\n  -▼\t- a\n", ["YAML forbids tabs"]),
        ("models: [a\nprecisions▼: 3\n", ["not valid YAML", "flow sequence, started at 1:9"]),
        ("name: s▼: t\n", ["mapping values are not allowed", "goes in quotes"]),
        ("{metric: a.b▼[8], max: 3}\n", ["not valid YAML", "'[' goes in quotes"]),
        ("name: ▼*b\n", ["undefined alias"]),
        ("name: ▼%a\n", ["cannot start any token", "goes in quotes"]),
        ("name: s\n▼---\nname: t\n", ["found another document"]),
        ("name: a▼\x01b\n", ["U+0001"]),
        ("name: ▼&x [*x]\n", ["alias of itself"]),
        ("name: " + "[" * 60 + "▼" + "[" * 9 + "]" * 69, ["nested more than 60 deep"]),
    ],
    ids=shorten,
)
def test_what_is_no_yaml_suite_is_refused_where_it_breaks(
    tmp_path: Path, marked: str, parts: list[str]
) -> None:
    check_marked(tmp_path, marked, *parts)


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    [message] = errors_of(tmp_path, "name: " + "[" * 5_000)
    assert "nested more than 60 deep" in message


def test_aliases_that_multiply_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for one, two in zip("abcdefghi", "bcdefghij", strict=False):
        lines.append(f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]")
    [message] = errors_of(tmp_path, "\n".join(lines))
    assert "more than 200,000 values after expanding aliases" in message


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"name": "name: s\n▼name: t"}, ["duplicate key 'name'", "first given at 1:1"]),
        (
            {"models": "models: [{name: m, source: org/m, requires: {memory: 1, ▼memory: 2}}]"},
            ["duplicate key 'memory'", "first given at 3:46"],
        ),
        ({"measure": "measure: {footprint: }\n▼5: x"}, ["keys must be text", "found 5"]),
        ({"measure": "measure: {footprint: }\n▼on: x"}, ["keys must be text", "found on"]),
        ({"measure": "measure: {footprint: , ? ▼[a] : x}"}, ["keys must be text"]),
        ({"measure": "measure: {footprint: , ? ▼!!str [a] : x}"}, ["keys must be text"]),
        (
            {"name": "name: s\ndescription: ▼!!python/object/apply:os.system [ls]"},
            ["!!python/object/apply:os.system is not allowed"],
        ),
        ({"name": "name: ▼!!binary aGk="}, ["!!binary is not allowed"]),
        ({"name": "name: ▼!mine s"}, ["the tag !mine is not allowed"]),
        ({"models": "models: ▼!!set {a, b}"}, ["!!set is not allowed"]),
        ({"measure": "measure: {memory: {batch_size: ▼!!int one}}"}, ["'one' as !!int"]),
        ({"measure": "measure: {throughput: {warmup_s: ▼.inf}}"}, ["finite number, found .inf"]),
        (
            {"measure": "measure: {<<: ▼3, footprint: }"},
            ["expected a mapping or list of mappings for merging"],
        ),
    ],
    ids=shorten,
)
def test_what_a_suite_may_not_hold_is_refused_where_it_is(
    tmp_path: Path, parts: dict[str, str], said: list[str]
) -> None:
    check_marked(tmp_path, suite_text(**parts), *said)


# --- mistakes in what it says


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        # the top level
        ({"name": None, "reference": "▼reference: fp32"}, ["missing key 'name'"]),
        (  # said once, and a limit on what was meant is no second mistake
            {
                "precisions": "precisions: [fp32, ▼nf44]",
                "limits": "limits: [{precision: nf4, metric: footprint.size_ratio, max: 1}]",
            },
            ["unknown precision 'nf44'; did you mean 'nf4'?"],
        ),
        ({"reference": "reference: fp32\nallow: ▼[weights]"}, ["'weights' is no field that stops"]),
        ({"name": "▼name: s", "models": None}, ["missing key 'models'"]),
        (
            {"name": "name: s\n▼modles: 3"},
            ["unknown key 'modles'; did you mean 'models'? Known: ", "precisions"],
        ),
        ({"name": "name: ▼no"}, ["expected a string, found the boolean no", "quotes: 'no'"]),
        ({"name": "name: ▼12"}, ["expected a string, found the number 12", "quotes: '12'"]),
        ({"name": "▼name:"}, ["name: expected a string, found nothing"]),
        ({"name": "name: ▼null"}, ["found nothing (YAML reads null as no value"]),
        ({"name": "name: ▼[s]"}, ["expected a string, found a list"]),
        ({"name": "name: ▼a/b"}, ["may not", "found 'a/b'"]),
        ({"name": "name: ▼'..'"}, ["found '..'"]),
        (
            {"reference": "reference: ▼fp23"},
            ["reference: unknown precision 'fp23'; did you mean 'fp32'? Known: fp32, nf4"],
        ),
        ({"reference": "reference: ▼16"}, ["expected a string, found the number 16"]),
        ({"models": "models: ▼{name: m}"}, ["models: expected a list", "found a mapping"]),
        ({"models": "models: ▼[]"}, ["expected a list", "found an empty one"]),
        ({"precisions": "▼precisions:"}, ["expected a list", "found nothing"]),
        ({"measure": "measure: ▼{}"}, ["expected a mapping", "found an empty one"]),
        ({"measure": "measure: ▼[footprint]"}, ["expected a mapping", "found a list"]),
        ({"limits": "limits: ▼{a: 1}"}, ["limits: expected a list", "found a mapping"]),
        (
            {"reference": None, "measure": "measure: {▼divergence: {text: a/b}}"},
            ["divergence compares with a reference: add `reference:`"],
        ),
        # models
        ({"models": "models: [▼gpt2]"}, ["models[0]: expected a mapping, found the string 'gpt2'"]),
        ({"models": "models: [▼{name: m}]"}, ["models[0]: missing key 'source'"]),
        (
            {"models": "models: [{name: m, source: org/m, ▼revison: x}]"},
            ["models[0]: unknown key 'revison'; did you mean 'revision'?"],
        ),
        ({"models": "models: [{name: ▼tiny world, source: org/m}]"}, ["found 'tiny world'"]),
        ({"models": "models: [{name: ▼'a::b', source: org/m}]"}, ["'::'", "found 'a::b'"]),
        ({"models": "models: [{name: ▼'a[b', source: org/m}]"}, ["found 'a[b'"]),
        ({"models": "models: [{name: ▼'', source: org/m}]"}, ["may not be empty"]),
        ({"models": "models: [{name: ▼'a,b', source: org/m}]"}, ["a comma"]),
        (
            {"models": "models: [{name: m, source: org/m}, {name: ▼m, source: org/n}]"},
            ["model name 'm' is used twice; first at 3:17"],
        ),
        ({"models": "models: [{name: m, source: ▼7}]"}, ["expected a string, found the number 7"]),
        ({"models": "models: [{name: m, source: ▼''}]"}, ["a string that is not empty"]),
        (
            {"models": "models: [{name: m, source: ▼'builtin:tiny-word'}]"},
            ["'builtin:tiny-word'; did you mean 'builtin:tiny-world'?"],
        ),
        ({"models": "models: [{name: m, source: ▼./none}]"}, ["no such file", "'./none'"]),
        ({"models": "models: [{name: m, source: ▼a b}]"}, ["neither an existing path"]),
        (
            {"models": "models: [{name: m, source: org/m, tokenizer: ▼../none}]"},
            ["models[0].tokenizer: no such file"],
        ),
        (
            {"models": "models: [{name: m, source: 'builtin:tiny-world', revision: ▼main}]"},
            ["revision is only for hub ids", "'builtin:tiny-world' is an embedded name"],
        ),
        (
            {
                "measure": "measure: {perplexity: {text: {path: 'builtin:tiny-world/heldout', "
                "split: ▼test}}}"
            },
            ["split is only for hub ids", "'builtin:tiny-world/heldout' is an embedded name"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, revision: ▼1234567}]"},
            ["expected a string, found the number 1234567; put it in quotes: '1234567'"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, weights: ▼random}]"},
            ["needs a mapping", "found 'org/m'"],
        ),
        (
            {"models": "models: [{name: m, source: 'builtin:tiny-world', weights: ▼random}]"},
            ["needs a mapping", "found 'builtin:tiny-world'"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, weights: ▼randm}]"},
            ["expected 'random', found 'randm'; did you mean 'random'?"],
        ),
        (
            {"models": "models: [{name: m, source: ▼{architecture: llama}}]"},
            ["a mapping, which has no weights: add `weights: random`"],
        ),
        (
            {"models": "models: [{name: m, source: ▼{hidden_size: 3}, weights: random}]"},
            ["models[0].source: missing key 'architecture'"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, requires: {device: ▼gpu}}]"},
            ["expected 'cpu' or 'cuda', found 'gpu'"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, requires: {memory: ▼6gb}}]"},
            ["expected bytes such as 6GiB or 500MB, found '6gb'"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, requires: {memory: ▼0}}]"},
            ["requires.memory: expected an integer of at least 1, found 0"],
        ),
        (
            {"models": "models: [{name: m, source: org/m, requires: {▼mem: 1}}]"},
            ["models[0].requires: unknown key 'mem'; did you mean 'memory'? Known: device, memory"],
        ),
        # precisions
        (
            {"precisions": "precisions: [fp32, ▼nf5]"},
            ["unknown precision 'nf5'; did you mean 'nf4'? Known: bf16", "nf4"],
        ),
        ({"precisions": "precisions: [fp32, ▼no]"}, ["a name or a mapping", "the boolean no"]),
        ({"precisions": "precisions: [fp32, ▼8]"}, ["a name or a mapping", "the number 8"]),
        (
            {"precisions": "precisions: [fp32, ▼fp32]"},
            ["precision name 'fp32' is used twice; first at 4:14"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: ▼mine, double_quant: true}]"},
            ["unknown precision 'mine'", "a name of your own needs `use:`"],
        ),
        ({"precisions": "precisions: [fp32, {name: a, use: ▼nf}]"}, ["unknown precision 'nf'"]),
        ({"precisions": "precisions: [fp32, {name: nf4, use: ▼''}]"}, ["unknown precision ''"]),
        ({"precisions": "precisions: [fp32, {name: a, use: ▼4}]"}, ["found the number 4"]),
        ({"precisions": "precisions: [fp32, {name: ▼yes, use: nf4}]"}, ["the boolean yes"]),
        ({"precisions": "precisions: [fp32, ▼{use: nf4}]"}, ["missing key 'name'"]),
        ({"precisions": "precisions: [fp32, {name: ▼a b, use: nf4}]"}, ["found 'a b'"]),
        (
            {"precisions": "precisions: [fp32, {name: a, use: nf4, ▼double_quants: true}]"},
            ["unknown key 'double_quants'; did you mean 'double_quant'?", "name, use"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: a, use: nf4, double_quant: ▼1}]"},
            ["expected true or false, found the number 1"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: a, use: nf4, compute_dtype: ▼bfloat}]"},
            ["'bfloat16'", "found 'bfloat'; did you mean 'bfloat16'?"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: a, use: int8, threshold: ▼-1}]"},
            ["expected a number of at least 0", "found -1"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: nf4, engine: ▼transformer}]"},
            ["expected 'transformers', found 'transformer'; did you mean 'transformers'?"],
        ),
        (
            {"precisions": "precisions: [fp32, {name: nf4, engine: ▼3}]"},
            ["precisions[1].engine: expected 'transformers', found the number 3"],
        ),
        # measurements
        (
            {"measure": "measure: {▼perplexitty: }"},
            ["unknown metric or task 'perplexitty'; did you mean 'perplexity'?", "mmlu"],
        ),
        ({"measure": "measure: {▼multiple_choice: }"}, ["unknown metric or task"]),
        ({"measure": "measure: {▼perplexity: }"}, ["measure.perplexity: missing key 'text'"]),
        ({"measure": "measure: {footprint: ▼3}"}, ["expected a mapping, found the number 3"]),
        ({"measure": "measure: {footprint: {▼a: 1}}"}, ["unknown key 'a'"]),
        (
            {"measure": "measure: {memory: {▼batch: 1}}"},
            ["measure.memory: unknown key 'batch'; did you mean 'batch_size'? Known: batch_size"],
        ),
        (
            {"measure": "measure: {memory: {batch_size: ▼-5}}"},
            ["measure.memory.batch_size: expected an integer of at least 1, found -5"],
        ),
        (
            {"measure": "measure: {memory: {batch_size: ▼'256'}}"},
            ["expected an integer, found the string '256'; remove the quotes"],
        ),
        (
            {"measure": "measure: {memory: {batch_size: ▼1.5}}"},
            ["an integer, found the number 1.5"],
        ),
        (
            {"measure": "measure: {memory: {batch_size: ▼yes}}"},
            ["an integer, found the boolean yes"],
        ),
        (
            {"measure": "measure: {throughput: {batch_sizes: [1, ▼a]}}"},
            ["throughput.batch_sizes[1]: expected an integer, found the string 'a'"],
        ),
        ({"measure": "measure: {throughput: {batch_sizes: ▼8}}"}, ["a list, found the number 8"]),
        ({"measure": "measure: {throughput: {batch_sizes: ▼[]}}"}, ["at least 1 item"]),
        ({"measure": "measure: {throughput: {batch_sizes: ▼[0]}}"}, ["at least 1"]),
        (
            {"measure": "measure: {perplexity: {text: ▼5}}"},
            ["expected a string or a mapping, found the number 5"],
        ),
        ({"measure": "measure: {perplexity: {text: ▼no.txt}}"}, ["no such file", "'no.txt'"]),
        ({"measure": "measure: {perplexity: {text: {path: ▼./no}}}"}, ["no such file", "'./no'"]),
        (
            {"measure": "measure: {mmlu: {data: ▼'builtin:tiny-world/quizz'}}"},
            ["did you mean 'builtin:tiny-world/quiz'?"],
        ),
        (
            {"measure": "measure: {perplexity: {text: org/text, context: 8, stride: ▼9}}"},
            ["measure.perplexity: stride 9 is larger than context 8"],
        ),
        (
            {"measure": "measure: {perplexity: {text: a/b, protocol: disjoint, stride: ▼9}}"},
            ["stride is only for protocol 'sliding'"],
        ),
        (
            {"models": f"models: [▼{RANDOM}]", "measure": f"measure: {{{PERPLEXITY}, mmlu: }}"},
            ["random weights come without a tokenizer", "perplexity, mmlu: set `tokenizer:`"],
        ),
        # limits
        ({"limits": "limits: [▼3]"}, ["limits[0]: expected a mapping, found the number 3"]),
        (
            {"limits": "limits: [▼{metric: footprint.size_ratio}]"},
            ["a limit needs `max`, `min` or both"],
        ),
        ({"limits": "limits: [▼{max: 3}]"}, ["limits[0]: missing key 'metric'"]),
        (
            {"limits": "limits: [{metric: footprint.size_ratio, max: 3, ▼maximum: 3}]"},
            ["unknown key 'maximum'", "Known: max, metric, min, model, precision"],
        ),
        (
            {"limits": "limits: [{metric: footprint.size_ratio, max: ▼'3'}]"},
            ["limits[0].max: expected a number, found the string '3'; remove the quotes"],
        ),
        ({"limits": "limits: [{metric: footprint.size_ratio, max: ▼.nan}]"}, ["finite"]),
        (
            {"limits": "limits: [{metric: footprint.size_ratio, max: 1, min: ▼1.01}]"},
            ["min 1.01 is above max 1"],
        ),
        (
            {"limits": "limits: [{metric: ▼footprint, max: 3}]"},
            ["expected family.value such as 'perplexity.ratio', found 'footprint'"],
        ),
        (
            {"limits": "limits: [{metric: ▼perplexity.ratio, max: 3}]"},
            ["unknown metric family 'perplexity'", "Known: footprint", "`measure:`"],
        ),
        (
            {"limits": "limits: [{metric: ▼footprint.size_rat, max: 3}]"},
            ["unknown value of footprint 'size_rat'; did you mean 'size_ratio'?"],
        ),
        (
            {"limits": "limits: [{metric: ▼'footprint.size_ratio[8]', max: 3}]"},
            ["footprint.size_ratio takes no [8]"],
        ),
        (
            {
                "measure": f"measure: {{{THROUGHPUT}}}",
                "limits": "limits: [{metric: ▼'throughput.tpot_s[4]', max: 3}]",
            },
            ["unknown batch size of throughput.tpot_s '4'", "Known: 1, 8"],
        ),
        (
            {
                "measure": f"measure: {{{THROUGHPUT}}}",
                "limits": "limits: [{metric: ▼throughput.tpot_s, max: 3}]",
            },
            ["per batch size: write throughput.tpot_s[1] or throughput.tpot_s[8]"],
        ),
        (
            {
                "measure": "measure: {mmlu: {subjects: [anatomy]}}",
                "limits": "limits: [{metric: ▼'mmlu.acc[anatomi]', max: 3}]",
            },
            ["unknown subject of mmlu.acc 'anatomi'; did you mean 'anatomy'?"],
        ),
        (
            {"limits": "limits: [{precision: ▼nf5, metric: footprint.size_ratio, max: 3}]"},
            ["limits[0].precision: unknown precision 'nf5'; did you mean 'nf4'? Known: fp32, nf4"],
        ),
        (
            {"limits": "limits: [{precision: [nf4, ▼x], metric: footprint.size_ratio, max: 3}]"},
            ["unknown precision 'x'"],
        ),
        (
            {"limits": "limits: [{precision: ▼[], metric: footprint.size_ratio, max: 3}]"},
            ["a list of at least 1 item"],
        ),
        (
            {"limits": "limits: [{precision: ▼[nf4, nf4], metric: footprint.size_ratio, max: 3}]"},
            ["'nf4' is named twice"],
        ),
        (
            {"limits": "limits: [{model: ▼n, metric: footprint.size_ratio, max: 3}]"},
            ["limits[0].model: unknown model 'n'", "Known: m"],
        ),
        (
            {"reference": None, "limits": "limits: [{metric: ▼footprint.size_ratio, max: 3}]"},
            ["footprint.size_ratio compares with a reference", "no `reference:`"],
        ),
        (
            {"limits": "limits: [{precision: ▼fp32, metric: footprint.size_ratio, max: 3}]"},
            ["precision 'fp32' is the reference, which footprint.size_ratio compares with"],
        ),
        (
            {
                "precisions": "precisions: [fp32]",
                "limits": "limits: [▼{metric: footprint.total_bytes, max: 3}]",
            },
            ["the reference is the only precision: name it"],
        ),
        (
            {
                "limits": "limits:\n"
                "- {metric: footprint.size_ratio, max: 3}\n"
                "- ▼{metric: footprint.size_ratio, max: 4, precision: nf4, model: m}"
            },
            ["m[nf4] has two limits `max`; the other limit is at suites/x.yaml:7:3"],
        ),
        (
            {
                "limits": "limits:\n"
                "- {metric: footprint.size_ratio, max: 3}\n"
                "- ▼{metric: footprint.size_ratio, min: 3.5}"
            },
            ["m[nf4] must be at least 3.5 and at most 3: nothing can pass", "at suites/x.yaml:7:3"],
        ),
    ],
    ids=shorten,
)
def test_a_mistake_is_explained_where_it_is(
    tmp_path: Path, parts: dict[str, Any], said: list[str]
) -> None:
    check_marked(tmp_path, suite_text(**parts), *said)


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    marked = textwrap.dedent("""\
        name: ▼no
        reference: ▼fp23
        models:
          - ▼{source: ▼'builtin:tiny', seed: ▼x}
        precisions: [fp32, ▼nf5, {name: q, use: nf4, ▼dq: 1}]
        measure:
          ▼footprnt: {}
          perplexity: {text: ▼./none, context: ▼-5, protocol: ▼slide}
        limits:
          - {precision: ▼fp9x, metric: ▼perplexity.rato, max: 1}
        ▼name: twice
        """)
    text, positions = strip_marks(marked)
    messages = errors_of(tmp_path, text)
    assert [message.split(": ")[0] for message in messages] == [
        f"suites/x.yaml:{position}" for position in positions
    ]


def test_all_mistakes_of_one_entry_and_those_between_limits_are_reported(tmp_path: Path) -> None:
    marked = suite_text(
        models="models: [{name: m, source: org/m, seed: ▼x}]",
        precisions="precisions: [fp32, {name: ▼a b, use: nf4, ▼dq: 1, engine: ▼x}]",
        limits="limits:\n"
        "- {metric: ▼footprint.x, max: 3}\n"
        "- {precision: fp32, metric: footprint.total_bytes, max: 3}\n"
        "- ▼{precision: fp32, metric: footprint.total_bytes, max: 4}",
    )
    text, positions = strip_marks(marked)
    messages = errors_of(tmp_path, text)
    assert [message.split(": ")[0].split(":", 1)[1] for message in messages] == positions


def test_a_mistake_is_not_reported_again_where_others_refer_to_it(tmp_path: Path) -> None:
    """A limit and the reference may name a precision and a metric that are wrong themselves."""
    marked = suite_text(
        reference="reference: nf5",
        precisions="precisions: [▼nf5, fp32]",
        measure="measure: {memory: {batch_size: ▼0}}",
        limits="limits: [{metric: memory.generate_peak_ratio, max: 1}]",
    )
    text, positions = strip_marks(marked)
    assert len(errors_of(tmp_path, text)) == len(positions)


def test_each_error_is_kept_as_line_column_and_message(tmp_path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        load_parts(tmp_path, reference="reference: x")
    [problem] = caught.value.problems
    assert (problem.line, problem.column) == (2, 12)
    assert problem.message.startswith("reference: unknown precision 'x'")

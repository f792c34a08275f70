"""Each extension is one file: those of examples/extending, in a copy of the package.

The expected numbers are computed by hand: the uniform engine's follow from its vocabulary.
"""

from __future__ import annotations

import ast
import json
import math
import shutil
from pathlib import Path

import pytest

from harness.records.record import Record
from tests.support.projects import ROOT, Outcome, Project, find_records, finish

pytestmark = pytest.mark.e2e

EXAMPLES = ROOT / "examples/extending"
PLACES = {
    "precision.py": "precisions/int4_rows.py",
    "metric.py": "metrics/entropy.py",
    "task.py": "tasks/series.py",
    "engine.py": "engines/uniform.py",
}
VOCABULARY = 1024
# (out, in) of a layer's linear weights: four of attention, then gate, up and down.
SHAPES = [(128, 128)] * 4 + [(384, 128)] * 2 + [(128, 384)]
LAYERS = 4


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder with the suite, whose Python finds a copy of the package with four more files."""
    copy = tmp_path_factory.mktemp("package")
    shutil.copytree(
        ROOT / "harness", copy / "harness", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, place in PLACES.items():
        assert not (copy / "harness" / place).exists()
        shutil.copy(EXAMPLES / name, copy / "harness" / place)
    project = Project(tmp_path_factory.mktemp("project"), variables={"PYTHONPATH": str(copy)})
    for name in ("suite.yaml", "series.jsonl"):
        shutil.copy(EXAMPLES / name, project.folder)
    return project


@pytest.fixture(scope="module")
def outcome(project: Project) -> Outcome:
    return project.run("suite.yaml", "-v")


@pytest.fixture(scope="module")
def records(project: Project, outcome: Outcome) -> dict[str, Record]:
    assert outcome.code == pytest.ExitCode.OK, outcome.text
    return find_records(project.last_run("extending"))


def value(record: Record, name: str) -> float:
    found = {**record.values, **record.paired}[name].value
    assert found is not None
    return found


def test_everything_is_measured_but_what_the_engine_lacks(outcome: Outcome) -> None:
    skipped = {name for name, result in outcome.results.items() if result == "SKIPPED"}
    chance = "suite.yaml::tiny-world[chance]"
    assert skipped == {f"{chance}::footprint", f"{chance}::throughput"}, outcome.text
    assert set(outcome.results.values()) == {"PASSED", "SKIPPED"}
    assert len(outcome.results) == 18


def test_what_the_engine_lacks_is_the_reason(records: dict[str, Record]) -> None:
    for measurement, lacking in (
        ("footprint", "counts"),
        ("throughput", "count_work, meter, open_generator"),
    ):
        validity = records[f"tiny-world[chance]::{measurement}"].validity
        reason = f"{measurement} needs {lacking}, which the engine uniform does not offer"
        assert (validity.status, validity.reasons) == ("skipped", (reason,))


def test_the_record_names_the_engine_that_is_not_the_precision_s_own(
    records: dict[str, Record],
) -> None:
    chance, fp32 = (records[f"tiny-world[{name}]::series"].cell for name in ("chance", "fp32"))
    assert chance.declared == {"use": "fp32", "engine": "uniform"}
    assert fp32.declared == {"use": "fp32"}


def test_chance_is_as_undecided_as_its_vocabulary_is_large(records: dict[str, Record]) -> None:
    perplexity = records["tiny-world[chance]::perplexity"]
    assert value(perplexity, "ppl") == pytest.approx(VOCABULARY)
    assert perplexity.validity.reasons == ("no weights were read: every token is equally likely",)
    entropy = records["tiny-world[chance]::entropy"]
    assert value(entropy, "entropy") == pytest.approx(math.log(VOCABULARY))
    assert entropy.values["entropy"].stderr == pytest.approx(0, abs=1e-9)


def test_the_divergence_of_chance_is_what_the_reference_s_entropy_leaves(
    records: dict[str, Record],
) -> None:
    """KL(p, uniform) = Σ p ln(p·V) = ln V - H(p): two metrics by different code."""
    kl = value(records["tiny-world[chance]::divergence"], "kl_mean")
    own = value(records["tiny-world[fp32]::entropy"], "entropy")
    assert 0 < own < math.log(VOCABULARY)
    assert kl == pytest.approx(math.log(VOCABULARY) - own, rel=1e-6)
    increase = value(records["tiny-world[chance]::entropy"], "increase")
    assert increase == pytest.approx(kl, rel=1e-6)


def test_chance_takes_the_first_of_equal_options(records: dict[str, Record]) -> None:
    lines = (EXAMPLES / "series.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    first = sum(row["options"][0] == row["answer"] for row in rows)
    series = records["tiny-world[chance]::series"]
    assert value(series, "acc") == first / len(rows) == 3 / 8
    assert value(series, "ties") == len(rows) == value(series, "items")


def test_int4_rows_is_packed_attested_and_measured(records: dict[str, Record]) -> None:
    footprint = records["tiny-world[int4_rows]::footprint"]
    weights = LAYERS * sum(rows * columns for rows, columns in SHAPES)
    scales = LAYERS * sum(rows for rows, _ in SHAPES)
    assert value(footprint, "quantised_bytes") == weights / 2
    assert value(footprint, "constants_bytes") == 4 * scales
    assert value(footprint, "bits_per_weight") == 4 + 32 * scales / weights
    assert value(footprint, "unaccounted_bytes") == 0
    fp32 = records["tiny-world[fp32]::footprint"]
    assert value(footprint, "parameters") == value(fp32, "parameters")
    attested = footprint.cell.attested
    assert attested is not None
    assert attested["quantisation"] == "int4_rows"
    assert attested["linear_dtypes"] == {"float32": 1, "uint8": LAYERS * len(SHAPES)}
    ratio = value(records["tiny-world[int4_rows]::perplexity"], "ratio")
    assert 1 < ratio < 3
    verdicts = [verdict.verdict for verdict in footprint.verdicts]
    assert verdicts == ["PASS"]


def test_constants_that_are_parameters_are_not_unquantised_weights(
    records: dict[str, Record],
) -> None:
    attested = records["tiny-world[int4_rows]::footprint"].cell.attested
    assert attested is not None
    assert set(attested["unquantised"]) == {"embedding", "output head, tied to the embedding"}
    assert attested["unquantised_share"] == 0
    # Two norms per layer, one at the end, the embedding: the scales are none of these.
    assert attested["dtypes"] == {"float32": 2 * LAYERS + 2}


def test_the_schema_knows_the_new_names(project: Project) -> None:
    command = ("-m", "harness.cli.schema")
    assert finish(project.start(command=command)).code == 0
    schema = Path(project.environment["PYTHONPATH"], "harness/suite.schema.json")
    written = schema.read_text(encoding="utf-8")
    for name in ("int4_rows", "entropy", "series", "uniform"):
        assert json.dumps(name) in written


@pytest.mark.parametrize("name", PLACES)
def test_no_file_of_the_host_s_imports_torch_at_its_top(name: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    plain = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    members = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert bool({"torch", "transformers"} & (plain | members)) == (name == "engine.py")

"""Users' mistakes, end to end: one clear message each, no traceback, everything else goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.records.journal import recover_journals
from harness.records.record import Record
from harness.records.run_file import Run, read_run
from tests.support.cells_in_process import LETTERS, write_checkpoint, write_llama
from tests.support.projects import FAST_THROUGHPUT, Outcome, Project, find_records

pytestmark = pytest.mark.e2e

HEAD = "name: {name}\nreference: fp32\nmodels: [{{name: m, source: 'builtin:tiny-world'}}]\n"
REST = "precisions: [fp32, nf4]\nmeasure: {{footprint: }}\n"
TEXT = "text: 'builtin:tiny-world/heldout'"

# The file -> where its mistake is and how it is explained.
BROKEN_SUITES = {
    "empty": ("", "1:1: ", "an empty file"),
    "tabs": (
        HEAD + "precisions:\n\t- fp32\n",
        "5:1: ",
        "a tab: YAML forbids tabs for indentation; use spaces",
    ),
    "duplicate": (
        HEAD + REST + "name: again\n",
        "6:1: ",
        "duplicate key 'name'; first given at 1:1",
    ),
    "key": (HEAD + REST + "limit: []\n", "6:1: ", "unknown key 'limit'; did you mean 'limits'?"),
    "precision": (
        HEAD + "precisions: [fp32, nf5]\nmeasure: {{footprint: }}\n",
        "4:20: ",
        "unknown precision 'nf5'; did you mean 'nf4'?",
    ),
    "metric": (
        HEAD + "precisions: [fp32]\nmeasure: {{perplexty: {{}}}}\n",
        "5:11: ",
        "unknown metric or task 'perplexty'; did you mean 'perplexity'?",
    ),
    "task": (
        HEAD + "precisions: [fp32]\nmeasure: {{mmlux: {{}}}}\n",
        "5:11: ",
        "unknown metric or task 'mmlux'; did you mean 'mmlu'?",
    ),
    "unmeasured": (
        HEAD + REST + "limits: [{{precision: nf4, metric: perplexity.ratio, max: 1.1}}]\n",
        "6:35: ",
        "unknown metric family 'perplexity'. Known: footprint (under `measure:`)",
    ),
    "negative": (
        HEAD + f"precisions: [fp32]\nmeasure: {{{{perplexity: {{{{{TEXT}, context: -8}}}}}}}}\n",
        "5:69: ",
        "measure.perplexity.context: expected an integer of at least 2, found -8",
    ),
    "stride": (
        HEAD
        + "precisions: [fp32]\n"
        + f"measure: {{{{perplexity: {{{{{TEXT}, context: 8, stride: 9}}}}}}}}\n",
        "5:80: ",
        "stride 9 is larger than context 8",
    ),
    "model": (
        HEAD.replace("builtin:tiny-world", "../nothing") + REST,
        "3:28: ",
        "no such file or folder: '../nothing'",
    ),
    "text": (
        HEAD + "precisions: [fp32]\nmeasure: {{perplexity: {{text: ../nothing.txt}}}}\n",
        "5:30: ",
        "no such file or folder: '../nothing.txt'",
    ),
    "reference": (
        HEAD.replace("reference: fp32", "reference: fp16") + REST,
        "2:12: ",
        "unknown precision 'fp16'",
    ),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("broken"))
    for name, (text, *_) in BROKEN_SUITES.items():
        project.write(f"suites/{name}.yaml", text.format(name=name))
    project.write("suites/sound.yaml", (HEAD + REST).format(name="sound"))
    return project


@pytest.fixture(scope="module")
def refused(broken: Project) -> Outcome:
    return broken.run("suites")


def test_broken_suites_are_a_usage_error_before_anything_is_measured(
    broken: Project, refused: Outcome
) -> None:
    assert refused.code == pytest.ExitCode.USAGE_ERROR
    assert f"{len(BROKEN_SUITES)} errors" in refused.text
    assert not refused.shows_traceback, refused.text
    assert not (broken.folder / "results").exists()


@pytest.mark.parametrize("name", BROKEN_SUITES)
def test_a_broken_suite_is_reported_with_its_place_and_reason(refused: Outcome, name: str) -> None:
    _, place, reason = BROKEN_SUITES[name]
    lines = [
        line for line in refused.text.splitlines() if line.startswith(f"suites/{name}.yaml:{place}")
    ]
    assert len(lines) == 1, refused.text
    assert reason in lines[0]


def test_sound_suites_in_the_same_folder_can_still_be_run(broken: Project) -> None:
    outcome = broken.collect("suites", "--continue-on-collection-errors")
    assert "suites/sound.yaml::m[nf4]::footprint" in outcome.node_ids
    assert broken.collect("suites/sound.yaml").code == 0


def test_a_missing_or_binary_suite_is_a_usage_error(tmp_path: Path) -> None:
    project = Project(tmp_path)
    missing = project.run("suites/none.yaml")
    assert missing.code == pytest.ExitCode.USAGE_ERROR
    assert "suites/none.yaml" in missing.text
    project.write("suites/x.yaml", "")
    (tmp_path / "suites/x.yaml").write_bytes(b"\xff\xfe\x00binary")
    binary = project.run("suites/x.yaml")
    assert binary.code == pytest.ExitCode.USAGE_ERROR
    assert "suites/x.yaml:1:" in binary.text
    assert not missing.shows_traceback
    assert not binary.shows_traceback, binary.text


# --- models and texts that turn out bad only when they are looked at ----------------------------

BAD_MODELS = {
    "weightless": "has no model.safetensors or ",
    "pickled": "only safetensors are read; found pytorch_model.bin",
    "truncated": "model.safetensors is truncated or corrupt: incomplete",
    "corrupt": "model.safetensors is truncated or corrupt: invalid JSON",
    "strange-words": "vocabulary mismatch: the tokenizer has token ids up to 262, the model's",
    "wordless": "no tokenizer",
}


def make_bad_models(folder: Path, sound: Path) -> None:
    for name in BAD_MODELS:
        shutil.copytree(sound, folder / name)
    weights = "model.safetensors"
    (folder / "weightless" / weights).unlink()
    (folder / "pickled" / weights).rename(folder / "pickled" / "pytorch_model.bin")
    content = (sound / weights).read_bytes()
    (folder / "truncated" / weights).write_bytes(content[:-100])
    (folder / "corrupt" / weights).write_bytes(content[:8] + b"#" * 40 + content[48:])
    shutil.rmtree(folder / "strange-words")
    write_llama(folder / "strange-words", num_hidden_layers=1, vocab_size=200)
    for path in sound.glob("token*"):
        shutil.copy(path, folder / "strange-words")
        (folder / "wordless" / path.name).unlink()
    shutil.copytree(sound, folder / "nan")
    tensors = load_file(sound / weights)
    tensors["lm_head.weight"][len(LETTERS)] = torch.nan
    save_file(tensors, folder / "nan" / weights, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Run, Project]:
    """Sound models before and after bad ones, and bad texts, in one invocation of two suites."""
    project = Project(tmp_path_factory.mktemp("bad"))
    sound = write_checkpoint(project.folder / "sound", num_hidden_layers=1)
    make_bad_models(project.folder, sound)
    names = ["first", *BAD_MODELS, "nan", "last"]
    sources = {"first": "sound", "last": "sound"}
    models = "".join(
        f"  - {{name: {name}, source: ../{sources.get(name, name)}}}\n" for name in names
    )
    project.write("empty.txt", "\n \n")
    project.write(
        "suites/a-models.yaml",
        f"name: models\nmodels:\n{models}precisions: [fp32]\n"
        "measure:\n  perplexity: {text: ../text.txt, context: 32}\n",
    )
    project.write(
        "suites/b-texts.yaml",
        "name: texts\nmodels: [{name: m, source: ../sound}]\nprecisions: [fp32]\nmeasure:\n"
        "  perplexity: {text: ../empty.txt, context: 32}\n"
        "  throughput: {prompt_tokens: 255, new_tokens: 3}\n"
        "  footprint:\n",
    )
    project.write(
        "suites/c-context.yaml",
        "name: context\nmodels: [{name: m, source: ../sound}]\nprecisions: [fp32]\nmeasure:\n"
        "  perplexity: {text: ../text.txt, context: 257}\n"
        "  memory: {prompt_tokens: 250, new_tokens: 6}\n",
    )
    outcome = project.run("suites", "-v")
    return outcome, project.last_run("models"), project


def get_record(run: Run, key: str) -> Record:
    return find_records(run)[key]


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_bad_model_fails_with_its_reason(bad: tuple[Outcome, Run, Project], name: str) -> None:
    outcome, run, _ = bad
    record = get_record(run, f"{name}[fp32]::perplexity")
    assert record.validity.status == "failed"
    (reason,) = record.validity.reasons
    assert BAD_MODELS[name] in reason
    assert record.traceback == "", "a user's mistake, not a bug"
    shown = outcome.failures[f"{name}[fp32]::perplexity"]
    assert shown.startswith(f"{name}[fp32] perplexity failed: {reason}\nRun file: ")


def test_nan_is_an_invalid_value_and_never_written_as_nan(
    bad: tuple[Outcome, Run, Project],
) -> None:
    outcome, run, project = bad
    record = get_record(run, "nan[fp32]::perplexity")
    assert record.validity.status == "invalid"
    assert record.values["ppl"].value is None
    assert "have a NaN or infinite log-likelihood" in outcome.failures["nan[fp32]::perplexity"]
    assert "NaN," not in project.run_paths("models")[0].read_text()


@pytest.mark.parametrize(
    ("suite", "measurement", "reason"),
    [
        ("texts", "perplexity", "text '../empty.txt' is empty"),
        ("texts", "throughput", "258"),
        ("context", "perplexity", "context 257 is longer than the 256 tokens that m was made for"),
    ],
)
def test_a_bad_text_or_length_fails_with_its_reason(
    bad: tuple[Outcome, Run, Project], suite: str, measurement: str, reason: str
) -> None:
    record = get_record(bad[2].last_run(suite), f"m[fp32]::{measurement}")
    assert record.validity.status == "failed"
    assert reason in record.validity.reasons[0]
    assert record.traceback == ""


def test_everything_else_in_the_same_invocation_is_measured(
    bad: tuple[Outcome, Run, Project],
) -> None:
    outcome, run, project = bad
    passed = {node for node, result in outcome.results.items() if result == "PASSED"}
    assert passed == {
        "suites/a-models.yaml::first[fp32]::perplexity",
        "suites/a-models.yaml::last[fp32]::perplexity",
        "suites/b-texts.yaml::m[fp32]::footprint",
        "suites/c-context.yaml::m[fp32]::memory",  # exactly as long as the model's context
    }
    assert outcome.code == pytest.ExitCode.TESTS_FAILED
    assert not outcome.shows_traceback, outcome.text
    assert len(run.records) == len(BAD_MODELS) + 3
    assert [project.last_run(s).run.interrupted for s in ("models", "texts")] == [False, False]


# --- what this machine cannot do ---------------------------------------------------------------

ELSEWHERE = f"""name: elsewhere
reference: fp32
models:
  - {{name: here, source: 'builtin:tiny-world'}}
  - {{name: gpu, source: 'builtin:tiny-world', requires: {{device: cuda}}}}
  - {{name: huge, source: 'builtin:tiny-world', requires: {{memory: 900TiB}}}}
precisions: [fp32, tf32]
measure:
  footprint:
  {FAST_THROUGHPUT}
limits: [{{metric: footprint.size_ratio, max: 1.0}}]
"""
REASONS = {
    "here[tf32]": "tf32 runs on cuda only, not on cpu",
    "gpu[fp32]": "gpu requires cuda, this run is on cpu",
    "gpu[tf32]": "gpu requires cuda, this run is on cpu",
    "huge[fp32]": "huge requires 9.22e+05 GiB of memory, cpu has",
    "huge[tf32]": "huge requires 9.22e+05 GiB of memory, cpu has",
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("elsewhere"))
    project.write("suites/x.yaml", ELSEWHERE)
    return project


@pytest.mark.parametrize("require_all", [False, True])
def test_what_this_machine_cannot_do_is_skipped_with_its_reason_or_fails_where_all_is_required(
    elsewhere: Project, require_all: bool
) -> None:
    options = ["--require-all"] if require_all else []
    outcome = elsewhere.run(
        "suites/x.yaml", "--device", "cpu", "-v", "-rs", "--measure", "footprint", *options
    )
    expected = "FAILED" if require_all else "SKIPPED"
    assert outcome.results == {
        "suites/x.yaml::here[fp32]::footprint": "PASSED",
        **{f"suites/x.yaml::{cell}::footprint": expected for cell in REASONS},
    }, outcome.text
    assert outcome.code == (pytest.ExitCode.TESTS_FAILED if require_all else pytest.ExitCode.OK)
    records = find_records(elsewhere.last_run("elsewhere"))
    for cell, reason in REASONS.items():
        validity = records[f"{cell}::footprint"].validity
        assert validity.status == "skipped"
        assert reason in validity.reasons[0]
        assert reason in outcome.text
        if require_all:
            shown = outcome.failures[f"{cell}::footprint"]
            assert shown.startswith(f"{cell} footprint skipped: {validity.reasons[0]}\nRun file: ")
    if not require_all:
        summary = outcome.text.partition("short test summary")[2]
        assert "SKIPPED [2] suites/x.yaml:1: gpu requires cuda, this run is on cpu" in summary
    assert not outcome.shows_traceback


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is needed")
def test_a_device_that_is_not_there_ends_the_run_with_one_line(elsewhere: Project) -> None:
    outcome = elsewhere.run("suites/x.yaml", "--device", "cuda:1")
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert "--device cuda:1: torch sees 0 CUDA devices" in outcome.text
    assert not outcome.shows_traceback, outcome.text


def test_a_results_folder_that_cannot_be_written_ends_the_run_with_one_line(
    elsewhere: Project,
) -> None:
    blocked = elsewhere.write("blocked", "a file, not a folder")
    outcome = elsewhere.run("suites/x.yaml", "--results", "blocked/runs", "-k", "here")
    assert outcome.code == pytest.ExitCode.USAGE_ERROR
    assert str(blocked) in outcome.text
    assert not outcome.shows_traceback, outcome.text


def test_a_run_file_that_cannot_be_written_is_reported_and_its_journal_kept(
    elsewhere: Project,
) -> None:
    elsewhere.write(
        "suites/full/conftest.py",
        "import pathlib, pytest\n"
        "@pytest.hookimpl(wrapper=True)\n"  # before the plugin's own
        "def pytest_sessionfinish():\n"
        "    folder = pathlib.Path('results/runs/full')\n"
        "    folder.rename('saved')\n"
        "    folder.write_text('in the way')\n"
        "    return (yield)\n",
    )
    elsewhere.write("suites/full/x.yaml", ELSEWHERE.replace("elsewhere", "full"))
    outcome = elsewhere.run("suites/full/x.yaml::here[fp32]::footprint")
    assert outcome.code == pytest.ExitCode.INTERNAL_ERROR
    assert "the run file was not written, its journal is kept: " in outcome.text
    assert not outcome.shows_traceback, outcome.text
    (journal,) = (elsewhere.folder / "saved").glob("*.journal.jsonl")
    (recovered,) = recover_journals(journal.parent)
    assert set(find_records(read_run(recovered))) == {"here[fp32]::footprint"}

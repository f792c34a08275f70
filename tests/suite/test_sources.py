"""Local model sources: what is accepted, refused and how it is identified, with real files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.suite.model_files import hash_files
from harness.suite.model_sources import ModelFiles, find_files
from harness.suite.models import Architecture, ModelSpec
from tests.support.checkpoints import resolve_local, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_a_local_folder_is_found_relative_to_the_suite_and_identified(model: Path) -> None:
    files = resolve_local(model)
    weights = model / "model.safetensors"
    assert files.folder == files.tokenizer_folder == str(model)
    assert files.revision is None
    assert files.weights_file_bytes == weights.stat().st_size
    pairs = [
        [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in (model / "config.json", weights)
    ]
    assert files.weights_sha256 == hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def test_one_changed_weight_changes_the_weights_hash_and_only_that(model: Path) -> None:
    before = resolve_local(model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    after = resolve_local(model)
    assert after.weights_sha256 != before.weights_sha256
    assert after.tokenizer_sha256 == before.tokenizer_sha256
    assert after.weights_file_bytes == before.weights_file_bytes


def test_a_changed_chat_template_changes_the_tokenizer_hash_and_only_that(model: Path) -> None:
    before = resolve_local(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    after = resolve_local(model)
    assert after.tokenizer_sha256 != before.tokenizer_sha256
    assert after.weights_sha256 == before.weights_sha256


def test_a_changed_config_changes_the_weights_hash(model: Path) -> None:
    before = resolve_local(model)
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "rope_theta": 1e6}))
    assert resolve_local(model).weights_sha256 != before.weights_sha256


def test_the_same_content_elsewhere_has_the_same_hashes(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    ours, theirs = resolve_local(model), resolve_local(copy)
    assert ours.weights_sha256 == theirs.weights_sha256
    assert ours.tokenizer_sha256 == theirs.tokenizer_sha256


def test_a_cached_blob_s_name_is_trusted_but_not_that_of_the_store_behind_it(
    tmp_path: Path,
) -> None:
    """A blob may be a link into a store shared by all repositories, whose names are Xet hashes."""
    content, stored = "a" * 64, "b" * 64
    for folder in ("snapshots/commit", "blobs", "store"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "store" / stored).write_bytes(b"weights")
    (tmp_path / "blobs" / content).symlink_to(f"../store/{stored}")
    pointer = tmp_path / "snapshots" / "commit" / "model.safetensors"
    pointer.symlink_to(f"../../blobs/{content}")
    named = hashlib.sha256(json.dumps([[pointer.name, content]]).encode()).hexdigest()
    assert hash_files([pointer], in_cache=True) == named
    computed = hashlib.sha256(b"weights").hexdigest()
    real = hashlib.sha256(json.dumps([[pointer.name, computed]]).encode()).hexdigest()
    assert hash_files([pointer], in_cache=False) == real


def test_shards_are_counted_together_and_unused_duplicates_are_not(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    expected = sum(path.stat().st_size for path in folder.glob("model-*.safetensors"))
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "consolidated.safetensors")
    assert resolve_local(folder).weights_file_bytes == expected


def test_a_folder_without_a_tokenizer_is_accepted_with_none(tmp_path: Path) -> None:
    files = resolve_local(write_model(tmp_path / "bare", tokenizer=False))
    assert files.tokenizer_folder is None
    assert files.tokenizer_sha256 is None


def test_a_tokenizer_can_come_from_another_folder(model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other", seed=7)
    files = resolve_local(model, tokenizer="other")
    assert files.folder == str(model)
    assert files.tokenizer_folder == str(tmp_path / "other")
    assert files.tokenizer_sha256 == resolve_local(tmp_path / "other").tokenizer_sha256


def test_a_tokenizer_source_without_a_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "bare", tokenizer=False)
    with pytest.raises(InputError, match=r"^bare has no tokenizer \(none of .*tokenizer\.json"):
        resolve_local(model, tokenizer="bare")


def drop_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def leave_adapter(folder: Path) -> None:
    drop_config(folder)
    (folder / "adapter_config.json").write_text("{}")


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def leave_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")


def leave_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def rename_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def truncate_tensors(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def truncate_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def append_bytes(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"xx")


def garble_header(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[8] = ord("[")
    (folder / "model.safetensors").write_bytes(content)


def reverse_offsets(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def leave_lfs_pointer(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (folder / "model.safetensors").write_text(pointer)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_config, r"^model has no config\.json$"),
        (break_config, r"^model: config\.json is not a readable JSON object: Expecting"),
        (listed_config, r"^model: config\.json is not a readable JSON object: no object$"),
        (leave_adapter, r"has no config\.json: it is an adapter"),
        (drop_weights, r"^model has no model\.safetensors or .* only safetensors are read$"),
        (leave_gguf, r"has no model\.safetensors or .*; found model-q4\.gguf$"),
        (leave_pickle, r"only safetensors .* found pytorch_model\.bin: .* convert"),
        (rename_weights, r"has no model\.safetensors or .*; found weights\.safetensors$"),
        (truncate_tensors, r"^model: model\.safetensors is truncated or corrupt: incomplete"),
        (truncate_header, r"model\.safetensors is truncated or corrupt: invalid header"),
        (empty_weights, r"model\.safetensors is truncated or corrupt: header too small"),
        (append_bytes, r"model\.safetensors is truncated or corrupt"),
        (garble_header, r"model\.safetensors is truncated or corrupt: .*JSON"),
        (reverse_offsets, r"model\.safetensors is truncated or corrupt: .*`w`"),
        (leave_lfs_pointer, r"is a Git LFS pointer.*git lfs pull"),
    ],
)
def test_a_folder_that_cannot_be_loaded_is_refused_with_its_reason(
    model: Path, spoil: Any, message: str
) -> None:
    spoil(model)
    with pytest.raises(InputError, match=message):
        resolve_local(model)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"1 of the 2 files that .*index\.json names are missing: model-00002"
    ):
        resolve_local(folder)


def test_a_corrupt_shard_is_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    os.truncate(folder / "model-00002-of-00002.safetensors", 200)
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is truncated"):
        resolve_local(folder)


@pytest.mark.parametrize("index", ["{", "{}", '{"weight_map": 3}', '{"weight_map": {"w": 3}}'])
def test_an_unreadable_index_is_refused(tmp_path: Path, index: str) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match="no readable weight_map"):
        resolve_local(folder)


def test_an_index_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=2)
    index = {"weight_map": {"w": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside its folder"):
        resolve_local(folder)


def test_a_weights_file_as_source_is_answered_with_its_folder(model: Path) -> None:
    with pytest.raises(InputError, match="is no folder; give the one"):
        resolve_local(model / "model.safetensors")


def test_a_missing_folder_is_a_mistake_and_asks_no_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_files(ModelSpec(name="m", source="./gone"), tmp_path, online=True)


def test_embedded_names_that_are_no_models_are_refused(tmp_path: Path) -> None:
    for source, message in (
        ("builtin:tiny-wrld", "unknown embedded name .* did you mean 'builtin:tiny-world'"),
        ("builtin:tiny-world/heldout", "builtin:tiny-world/heldout is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            find_files(ModelSpec(name="m", source=source), tmp_path, online=False)


def test_a_revision_of_a_local_folder_is_refused(model: Path) -> None:
    with pytest.raises(InputError, match="a revision is for hub models"):
        resolve_local(model, revision="main")


def test_random_weights_are_identified_by_their_recipe(model: Path, tmp_path: Path) -> None:
    def find(seed: int, **options: str) -> ModelFiles:
        source = Architecture(architecture="llama", **{"hidden_size": 8})
        spec = ModelSpec(name="r", source=source, weights="random", seed=seed, **options)
        return find_files(spec, tmp_path, online=False)

    assert find(1).folder is None
    assert find(1) == find(1)
    assert find(1).weights_sha256 != find(2).weights_sha256
    assert find(1, tokenizer=model.name).tokenizer_folder == str(model)

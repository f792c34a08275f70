"""Hub model sources, against a real server on this machine: fetched, cached, refused, silent."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoints import resolve_local, write_model
from tests.support.hub_server import TOKEN, Hub, client_environment, serve_hub

ROOT = Path(__file__).parents[2]
CLIENT = """
import dataclasses, json, sys
from pathlib import Path
from harness.suite import hub
from harness.errors import InputError, UnavailableError
from harness.suite.model_sources import find_files
from harness.suite.models import ModelSpec

def answer(call, options):
    if call in ("hub_is_reachable", "list_cached"):
        return getattr(hub, call)(**options)
    online = options.pop("online")
    model = ModelSpec.model_validate_json(json.dumps({"name": "m", **options}))
    try:
        return dataclasses.asdict(find_files(model, Path(), online))
    except UnavailableError as error:
        return {"error": "UnavailableError", "message": str(error)}
    except InputError as error:
        return {"error": "InputError", "message": str(error)}

request = json.loads(sys.argv[1])
for name, value in request["settings"].items():
    setattr(hub, name, value)
answers = [answer(request["call"], options) for options in request["options"]]
heavy = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps({"answers": answers, "heavy": heavy}))
"""


@dataclass(frozen=True)
class Client:
    """Calls the module under test in fresh processes that share one cache."""

    endpoint: str
    home: Path

    def run(
        self,
        call: str,
        *options: dict[str, Any],
        env: dict[str, str] | None = None,
        settings: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """One process making the same call with each of ``options`` in turn."""
        request: dict[str, Any] = {"call": call, "options": options or [{}]}
        request["settings"] = settings or {}
        environment = client_environment(self.endpoint, self.home, **(env or {}))
        process = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(request)],
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            timeout=60,  # less than the client itself goes on trying
        )
        assert process.returncode == 0, process.stderr
        result: dict[str, Any] = json.loads(process.stdout)
        assert result["heavy"] == []
        return result

    def resolve_each(
        self, *requests: dict[str, Any], env: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        defaults = {"source": "acme/tiny", "revision": None, "tokenizer": None, "online": True}
        given = [{**defaults, **request} for request in requests]
        answers: list[dict[str, Any]] = self.run("find_files", *given, env=env)["answers"]
        return answers

    def resolve(
        self, source: str, *, env: dict[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        return self.resolve_each({"source": source, **options}, env=env)[0]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as running:
        yield running


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.endpoint, tmp_path / "home")


def test_a_hub_model_is_fetched_without_what_is_not_needed(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    served = write_model(tmp_path / "served", shards=2)
    for name in ("pytorch_model.bin", "model.gguf", "README.md", "consolidated.safetensors"):
        (served / name).write_bytes(b"unwanted")
    (served / "modeling_tiny.py").write_text("")
    for folder in ("original", "onnx"):
        write_model(served / folder)
    (sha,) = hub.add("acme/tiny", served)
    files = client.resolve("acme/tiny")
    assert files["revision"] == sha == Path(files["folder"]).name
    assert files["folder"] == files["tokenizer_folder"]
    assert sorted(os.listdir(files["folder"])) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    local = resolve_local(served)
    assert files["weights_sha256"] == local.weights_sha256
    assert files["tokenizer_sha256"] == local.tokenizer_sha256
    assert files["weights_file_bytes"] == local.weights_file_bytes


def test_models_of_the_cache_are_listed_once_they_are_whole(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    assert client.run("list_cached")["answers"] == [{}]  # there is no cache yet
    for name in ("acme/tiny", "acme/other"):
        hub.add(name, write_model(tmp_path / "served" / name))
        client.resolve(name)
    size = (tmp_path / "served/acme/tiny/model.safetensors").stat().st_size
    (listed,) = client.run("list_cached")["answers"]
    assert list(listed) == ["acme/other", "acme/tiny"]
    assert size < listed["acme/tiny"] < 2 * size + 1000
    for path in client.home.glob("hub/models--acme--other/snapshots/*/model.safetensors"):
        path.unlink()
    assert list(client.run("list_cached")["answers"][0]) == ["acme/tiny"]


def test_code_is_fetched_only_where_it_is_allowed(hub: Hub, client: Client, tmp_path: Path) -> None:
    served = write_model(tmp_path / "served")
    (served / "modeling_tiny.py").write_text("")
    hub.add("acme/tiny", served)
    code = Path(client.resolve("acme/tiny")["folder"]) / "modeling_tiny.py"
    assert not code.exists()
    client.resolve("acme/tiny", trust_remote_code=True)
    assert code.exists()


def test_a_revision_pins_the_commit_and_main_is_the_last(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    folders = [write_model(tmp_path / f"commit{seed}", seed=seed) for seed in (1, 2)]
    old, new = hub.add("acme/tiny", *folders)
    revisions = [{"revision": revision} for revision in (old, old[:7], None)]
    pinned, short, main = client.resolve_each(*revisions)
    assert pinned == short
    assert (pinned["revision"], main["revision"]) == (old, new)
    assert pinned["weights_sha256"] != main["weights_sha256"]
    assert pinned["weights_sha256"] == resolve_local(folders[0]).weights_sha256


def test_offline_the_cache_of_an_earlier_run_answers(tmp_path: Path) -> None:
    """Whichever way the revision was written: main, part of a sha, or a whole one."""
    with serve_hub() as hub:
        (sha,) = hub.add("acme/tiny", write_model(tmp_path / "served", shards=2))
        client = Client(hub.endpoint, tmp_path / "home")
        online = [{"revision": revision} for revision in (None, sha[:7], sha)]
        fetched = client.resolve_each(*online)
        assert [files["revision"] for files in fetched] == [sha] * 3
        asked = hub.count()
        offline = [{**request, "online": False} for request in online]
        assert client.resolve_each(*offline) == fetched
        assert hub.count() == asked
    # From here on the server is gone.
    assert client.resolve_each(*online) == fetched
    assert client.resolve_each(*online, env={"HF_HUB_OFFLINE": "1"}) == fetched


def test_offline_and_not_cached_is_unavailable(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.add("acme/tiny", write_model(tmp_path / "served"))
    answer = client.resolve("acme/tiny", online=False)
    assert answer == {
        "error": "UnavailableError",
        "message": "acme/tiny is not in the local cache and the hub cannot be reached "
        "(nor does the suite's folder hold a folder of that name)",
    }
    assert hub.count() == 0


def test_offline_and_partly_cached_is_unavailable(hub: Hub, client: Client, tmp_path: Path) -> None:
    """snapshot_download by itself returns such a folder where the cache holds no listing."""
    hub.add("acme/tiny", write_model(tmp_path / "served", shards=2))
    folder = Path(client.resolve("acme/tiny")["folder"])
    (folder / "model-00002-of-00002.safetensors").unlink()
    with_listing = client.resolve("acme/tiny", online=False)
    shutil.rmtree(folder.parent.parent / "trees", ignore_errors=True)
    without_listing, online = client.resolve_each({"online": False}, {"online": True})
    for answer in (with_listing, without_listing):
        assert answer["error"] == "UnavailableError"
        assert "is not in the local cache" in answer["message"]
    assert online["folder"] == str(folder), "online it is completed"


def test_a_corrupt_file_in_the_cache_is_an_error(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.add("acme/tiny", write_model(tmp_path / "served"))
    folder = Path(client.resolve("acme/tiny")["folder"])
    os.truncate(folder / "model.safetensors", 100)
    answer = client.resolve("acme/tiny", online=False)
    assert answer["error"] == "InputError"
    assert "model.safetensors is truncated" in answer["message"]


def test_a_private_model_needs_a_token(hub: Hub, client: Client, tmp_path: Path) -> None:
    hub.add("acme/secret", write_model(tmp_path / "served"), access="private")
    refused = client.resolve("acme/secret")
    assert refused["error"] == "InputError"
    assert "no such model on the hub, or private and no token given" in refused["message"]
    assert "set HF_TOKEN" in refused["message"]
    assert client.resolve("acme/secret", env={"HF_TOKEN": TOKEN})["weights_file_bytes"] > 0


def test_a_gated_model_is_unavailable_until_its_terms_are_accepted(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    hub.add("acme/gated", write_model(tmp_path / "served"), access="gated")
    refused = client.resolve("acme/gated")
    assert refused["error"] == "UnavailableError"
    assert f"accept its terms at {hub.endpoint}/acme/gated and set HF_TOKEN" in refused["message"]
    assert client.resolve("acme/gated", env={"HF_TOKEN": TOKEN})["weights_file_bytes"] > 0


def test_a_model_or_revision_that_does_not_exist_is_a_mistake(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    hub.add("acme/tiny", write_model(tmp_path / "served"))
    model, *revisions = client.resolve_each(
        {"source": "acme/gone"}, {"revision": "v9"}, {"revision": "f" * 40}
    )
    assert {answer["error"] for answer in (model, *revisions)} == {"InputError"}
    assert model["message"].startswith("acme/gone: no such model on the hub")
    for answer, revision in zip(revisions, ("v9", "f" * 40), strict=True):
        assert answer["message"] == f"acme/tiny has no revision {revision!r} on the hub"


def test_a_hub_model_of_pickles_is_refused_before_any_download(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    served = write_model(tmp_path / "served")
    (served / "model.safetensors").rename(served / "pytorch_model.bin")
    hub.add("acme/pickles", served)
    answer = client.resolve("acme/pickles")
    assert answer["error"] == "InputError"
    assert "found pytorch_model.bin: where you trust" in answer["message"]
    assert hub.count("/resolve/") == 0


def test_an_impossible_id_is_a_mistake_online_and_offline(hub: Hub, client: Client) -> None:
    requests = [{"source": "acme/a--b", "online": online} for online in (True, False)]
    for answer in client.resolve_each(*requests):
        assert answer["error"] == "InputError"
        assert answer["message"].startswith("'acme/a--b' is not a hub id")
    assert hub.count() == 0


def test_a_hub_tokenizer_is_fetched_without_weights(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    served = write_model(tmp_path / "served")
    hub.add("acme/tiny", served)
    hub.add("acme/bare", write_model(tmp_path / "bare", tokenizer=False))
    own = str(write_model(tmp_path / "own"))
    online, offline, refused = client.resolve_each(
        {"source": own, "tokenizer": "acme/tiny"},
        {"source": own, "tokenizer": "acme/tiny", "online": False},
        {"source": own, "tokenizer": "acme/bare"},
    )
    folder, sha256 = online["tokenizer_folder"], online["tokenizer_sha256"]
    assert sorted(os.listdir(folder)) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sha256 == resolve_local(served).tokenizer_sha256
    assert offline == online
    assert refused["error"] == "InputError"
    assert "acme/bare has no tokenizer" in refused["message"]
    model = client.resolve("acme/tiny", online=False)  # its weights were never fetched
    assert model["error"] == "UnavailableError"


@pytest.mark.parametrize("silent_on", ["/api/models/acme/tiny/revision", "/resolve/"])
def test_a_hub_that_falls_silent_is_given_up_soon(
    hub: Hub, client: Client, tmp_path: Path, silent_on: str
) -> None:
    hub.add("acme/tiny", write_model(tmp_path / "served"))
    hub.silent_on = silent_on
    answer = client.run(
        "find_files",
        {"source": "acme/tiny", "revision": "main", "tokenizer": None, "online": True},
        settings={"_REQUEST_TIMEOUT_S": 0.2, "_SILENCE_S": 0.4},
    )
    assert answer["answers"][0]["error"] == "UnavailableError"
    assert "acme/tiny could not be fetched from the hub" in answer["answers"][0]["message"]


def test_reachability_is_asked_with_one_request(hub: Hub, client: Client) -> None:
    assert client.run("hub_is_reachable")["answers"] == [True]
    assert hub.count() == 1


def test_an_offline_variable_answers_reachability_without_a_request(
    hub: Hub, client: Client
) -> None:
    assert client.run("hub_is_reachable", env={"HF_HUB_OFFLINE": "1"})["answers"] == [False]
    assert hub.count() == 0


def test_a_dead_endpoint_is_not_reachable(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = Client(f"http://127.0.0.1:{free.getsockname()[1]}", tmp_path / "home")
        assert dead.run("hub_is_reachable")["answers"] == [False]


def test_an_endpoint_that_never_answers_is_given_up_in_time(hub: Hub, client: Client) -> None:
    hub.silent_on = "/"
    answer = client.run("hub_is_reachable", {"timeout_s": 0.5})
    assert answer["answers"] == [False]
    assert hub.count() == 1


# --- the server itself --------------------------------------------------------------------------

LOAD_DATASETS = """
import json, sys
import datasets
print(json.dumps([datasets.load_dataset(name, split="test")[:] for name in sys.argv[1:]]))
"""


def load_datasets(hub: Hub, home: Path, *names: str, **env: str) -> Any:
    process = subprocess.run(
        [sys.executable, "-c", LOAD_DATASETS, *names],
        env=client_environment(hub.endpoint, home, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
def test_datasets_loads_csv_and_parquet_from_the_server_and_then_from_its_cache(
    hub: Hub, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    for name in ("csv", "parquet"):
        (tmp_path / name / "data").mkdir(parents=True)
    (tmp_path / "csv" / "data" / "test.csv").write_text("question,answer\nWhy?,42\n")
    table = pyarrow.table({"question": ["Why?"], "answer": [42]})
    parquet.write_table(table, tmp_path / "parquet" / "data" / "test.parquet")
    for name in ("csv", "parquet"):
        hub.add(f"acme/{name}", tmp_path / name, kind="datasets")
    expected = {"question": ["Why?"], "answer": [42]}
    names = ("acme/csv", "acme/parquet")
    assert load_datasets(hub, tmp_path / "home", *names) == [expected, expected]
    asked = hub.count()
    offline = load_datasets(hub, tmp_path / "home", *names, HF_HUB_OFFLINE="1")
    assert offline == [expected, expected]
    assert hub.count() == asked


def test_the_server_refuses_connections_once_stopped(tmp_path: Path) -> None:
    with serve_hub() as hub:
        port = int(hub.endpoint.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)

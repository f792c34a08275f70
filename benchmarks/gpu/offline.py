"""Write a shipped suite so that it runs without network, and small where that is asked for.

    python -m gpu.offline SUITE OUT.yaml [--models NAME…] [--precisions NAME…] [--measure NAME…]
        [--measure-of SUITE] [--set throughput.processes=1 …] [--model FOLDER] [--data FOLDER]
        [--small]

The suite is named after OUT; ``--measure-of`` takes what is measured from another one. In place of
the hub's models comes the folder ``--model``, else the embedded model; in place of its texts and
questions files of ``--data``, else the embedded ones. What has no replacement is left out, and
said. Precisions come in the order given, after the reference where that is not among them. A suite
keeps its limits only where its models are its own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

EMBEDDED = "builtin:tiny-world"
EMBEDDED_CONTEXT = 512
SMALL_TEXT = 4000  # characters
# The option that names a measurement's data, the file below ``--data``, and the embedded data.
_DATA = {
    "perplexity": ("text", "wikitext2/wiki.test.raw", f"{EMBEDDED}/heldout"),
    "divergence": ("text", "wikitext2/wiki.test.raw", f"{EMBEDDED}/heldout"),
    "mmlu": ("data", "mmlu", f"{EMBEDDED}/quiz"),
    "hellaswag": ("data", "hellaswag/validation_1000.jsonl", None),
}
_WITHOUT_DATA = ("footprint", "memory", "side_by_side", "throughput")
# A rehearsal's sizes: every path is taken, no figure is worth anything.
SMALL_SHAPE = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
_SMALL: dict[str, dict[str, Any]] = {
    "throughput": {
        "prompt_tokens": 16,
        "new_tokens": 3,
        "batch_sizes": [1, 2],
        "processes": 1,
        "min_rounds": 3,
        "min_time_s": 0.0,
        "warmup_s": 0.0,
        "roofline": False,
    },
    "memory": {"prompt_tokens": 32, "new_tokens": 3, "batch_size": 1},
    "perplexity": {"context": 128, "stride": 64},
    "divergence": {"context": 128, "limit": 1000},
    "mmlu": {"shots": 0, "limit": 2},
    "hellaswag": {"limit": 4},
}


def adapt(suite: dict[str, Any], given: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The suite as it can run here, and a sentence for each thing that was left out."""
    said: list[str] = []
    chosen = [m for m in suite["models"] if not given.models or m["name"] in given.models]
    # Several models of the hub have one replacement.
    models = list(
        {str(new["source"]): new for new in (_adapt_model(m, given) for m in chosen)}.values()
    )
    measure: dict[str, Any] = {}
    of = suite
    if given.measure_of is not None:
        of = yaml.safe_load(given.measure_of.read_text(encoding="utf-8"))
    for name, options in of["measure"].items():
        if given.measure and name not in given.measure:
            continue
        adapted = _adapt_measurement(name, dict(options), given, _find_context(models))
        if adapted is None:
            said.append(f"without {name}: its data is on the hub, and no file of it is given")
        else:
            measure[name] = adapted
    for setting in given.set:
        where, _, value = setting.partition("=")
        name, _, option = where.partition(".")
        if name in measure:
            measure[name][option] = yaml.safe_load(value)
    precisions = suite["precisions"]
    if given.precisions:
        named = {_name(p): p for p in precisions}
        first = [suite["reference"]] * (suite["reference"] not in given.precisions)
        precisions = [named[name] for name in (*first, *given.precisions)]
    made = {
        **suite,
        "name": given.out.stem,
        "models": models,
        "precisions": precisions,
        "measure": measure,
    }
    if models != chosen:
        lost = ", ".join(m["name"] for m in chosen if m not in models)
        said.append(f"without limits: {models[0]['name']} as it is here takes the place of {lost}")
        return {**made, "limits": []}, said
    known = {"precision": {_name(p) for p in precisions}, "model": {m["name"] for m in models}}
    limits = [
        limit
        for limit in suite.get("limits", [])
        if limit["metric"].partition(".")[0] in measure
        and all(set(_listed(limit.get(key))) <= names for key, names in known.items())
    ]
    return {**made, "limits": limits}, said


def _adapt_model(model: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    source = model["source"]
    if isinstance(source, dict) and given.small:
        return {"name": model["name"], "source": {**source, **SMALL_SHAPE}, "weights": "random"}
    if isinstance(source, dict) or source.startswith("builtin:"):
        return model
    if given.model is None:
        return {"name": "tiny-world", "source": EMBEDDED}
    return {"name": given.model.name.lower(), "source": str(given.model.resolve())}


def _find_context(models: list[dict[str, Any]]) -> int:
    """The shortest context of the models, in tokens."""
    found = []
    for model in models:
        source = model["source"]
        if source == EMBEDDED:
            found.append(EMBEDDED_CONTEXT)
        else:
            config = source
            if isinstance(source, str):
                config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
            found.append(int(config.get("max_position_embeddings", EMBEDDED_CONTEXT)))
    return min(found)


def _adapt_measurement(
    name: str, options: dict[str, Any], given: argparse.Namespace, context: int
) -> dict[str, Any] | None:
    """Its options with data that is here and lengths that fit; None without data."""
    if name in _DATA:
        option, path, embedded = _DATA[name]
        file = given.data / path if given.data is not None else None
        if given.model is not None and file is not None and file.exists():
            options[option] = str(_cut(file, given) if option == "text" else file.resolve())
        elif embedded is None or given.model is not None:
            return None
        else:
            options[option] = embedded
    elif name not in _WITHOUT_DATA:
        return None
    if given.small:
        options = {k: v for k, v in options.items() if k != "also_compiled"} | _SMALL.get(name, {})
    for key, most in {
        "context": context,
        "stride": context // 2,
        "prompt_tokens": context // 2,
        "new_tokens": context // 4,
    }.items():
        if key in options:
            options[key] = min(options[key], most)
    return options


def _cut(text: Path, given: argparse.Namespace) -> Path:
    """The text's file; of a rehearsal one beside the suite with its beginning."""
    if not given.small:
        return text.resolve()
    cut = given.out.parent.resolve() / text.name
    cut.write_text(text.read_text(encoding="utf-8")[:SMALL_TEXT], encoding="utf-8")
    return cut


def _name(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(entry["name"])


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("suite", type=Path)
    parser.add_argument("out", type=Path)
    for several in ("--models", "--precisions", "--measure", "--set"):
        parser.add_argument(several, nargs="+", default=[])
    parser.add_argument("--measure-of", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    suite, said = adapt(yaml.safe_load(given.suite.read_text(encoding="utf-8")), given)
    given.out.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    for sentence in said:
        print(f"{given.out.name}: {sentence}")


if __name__ == "__main__":
    main()

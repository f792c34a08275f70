"""A suite as it was read: frozen models of its parts, and its hash."""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from harness.catalog import load_precision
from harness.descriptions import OptionsBase
from harness.suite.allowed import check_allowed
from harness.suite.data_source import Source, check_hub_only, list_data_sources
from harness.suite.limits import Limit as Limit
from harness.suite.limits import check_listed

NAME_PATTERN = r"^(?!\.+$)(?!.*::)[^\s\[\]/\\,]+$"
MEMORY_PATTERN = r"^\d+(\.\d+)? ?([kMGT]B|[KMGT]iB|B)$"


def _check_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(
            "a name is part of test ids and file names: it may not be empty, or contain "
            f"whitespace, a comma, '::' or any of [ ] / \\; found {name!r}"
        )
    return name


def _check_unit(given: Any) -> Any:
    if isinstance(given, str) and not re.fullmatch(MEMORY_PATTERN, given):
        raise ValueError(f"expected bytes such as 6GiB or 500MB, found {given!r}")
    return given


Name = Annotated[
    str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
]
Memory = Annotated[
    ByteSize,
    Field(ge=1),
    BeforeValidator(_check_unit),
    WithJsonSchema({"type": ["integer", "string"], "minimum": 1, "pattern": MEMORY_PATTERN}),
]


class Named(OptionsBase):
    """Anything with a name of the user's choice."""

    name: Name


class Requires(OptionsBase):
    """What a machine needs for a model; on other machines the model's cells are skipped."""

    device: Literal["cpu", "cuda"] | None = None
    memory: Memory | None = Field(default=None, description="bytes, such as 6GiB or 500MB")


class Architecture(OptionsBase, extra="allow"):
    """A model without trained weights: a transformers model type and its config's fields."""

    architecture: str = Field(min_length=1, description="transformers' model_type, such as llama")


def _source_form(given: Any) -> str:
    return "mapping" if isinstance(given, (dict, Architecture)) else "string"


_RANDOM = {
    "if": {"required": ["source"], "properties": {"source": {"type": "object"}}},
    "then": {"required": ["weights"], "properties": {"weights": {"const": "random"}}},
    "else": {"properties": {"weights": {"type": "null"}}},
}
AttentionName = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


class ModelSpec(Named, json_schema_extra=_RANDOM):
    """A model: where its weights come from and what it needs.

    ``source`` is ``builtin:…``, a hub id, a local path relative to the suite, or an `Architecture`
    with ``weights: random``, which is for speed and memory only.
    """

    source: Annotated[
        Annotated[Source, Tag("string")] | Annotated[Architecture, Tag("mapping")],
        Discriminator(_source_form),
    ]
    revision: str | None = Field(
        default=None, min_length=1, description="commit, tag or branch of a hub id"
    )
    weights: Literal["random"] | None = None
    seed: int = Field(default=0, ge=0, description="of random weights")
    tokenizer: Source | None = Field(default=None, description="if it is not the source's own")
    requires: Requires = Requires()
    trust_remote_code: bool = Field(
        default=False, description="run Python code that comes with the model"
    )
    attention: AttentionName | None = Field(
        default=None, description="attention implementation; default: transformers' choice"
    )
    chat_template: bool = Field(
        default=False, description="put prompts as a user's turn in the tokenizer's chat template"
    )

    @model_validator(mode="after")
    def _check_weights(self, info: ValidationInfo) -> "ModelSpec":
        if isinstance(self.source, Architecture):
            if self.weights is None:
                raise ValueError("source is a mapping, which has no weights: add `weights: random`")
            if self.revision is not None:
                raise ValueError("revision is only for hub ids; this source is a mapping")
        elif self.weights is not None:
            raise ValueError(
                f"weights: random needs a mapping such as {{architecture: llama, …}} as source, "
                f"found {self.source!r}, which has weights of its own"
            )
        else:
            check_hub_only(self.source, info, revision=self.revision)
        return self


class PrecisionSpec(Named):
    """A precision under its name in this suite; ``options`` is ``use``'s own ``Options``.

    ``engine`` loads and asks the model.
    """

    use: str
    options: SerializeAsAny[OptionsBase]
    engine: str = Field(default_factory=lambda given: load_precision(given["use"]).engine)

    @property
    def declared(self) -> dict[str, Any]:
        """What a record says was declared; the engine where it is not the precision's own."""
        own = {"engine": self.engine} if self.engine != load_precision(self.use).engine else {}
        return {"use": self.use, **self.options.model_dump(mode="json"), **own}


class MeasurementSpec(OptionsBase):
    """One entry of ``measure:``; ``options`` is that metric's or task's own ``Options``."""

    name: str
    options: SerializeAsAny[OptionsBase]


class Heading(OptionsBase):
    """The name of a suite and what its cells are compared with."""

    name: Name = Field(description="names the folder of its results")
    description: str = ""
    reference: Annotated[str, AfterValidator(check_listed)] | None = Field(
        default=None, description="the precision that the others are compared with"
    )
    noise: bool = Field(
        default=False,
        description="measure the reference a second time, with other batches in another process: "
        "what differs less than the two is shown as noise",
    )
    allow: Annotated[tuple[str, ...], AfterValidator(check_allowed), Field(strict=False)] = Field(
        default=(),
        description="fields such as protocol.shots that may differ from what this suite's runs "
        "are compared with",
    )


class Suite(Heading):
    """A validated suite; ``path`` is the file it was read from."""

    models: tuple[ModelSpec, ...]
    precisions: tuple[PrecisionSpec, ...]
    measurements: tuple[MeasurementSpec, ...]
    limits: tuple[Limit, ...]
    path: Path

    @property
    def folder(self) -> Path:
        """Where the suite's relative paths start."""
        return self.path.parent


def list_sources(suite: Suite) -> list[str]:
    """All names and paths that models, tokenizers, texts and items come from, as written."""
    found = [model.source for model in suite.models if isinstance(model.source, str)]
    found += [model.tokenizer for model in suite.models if model.tokenizer is not None]
    given = [data for m in suite.measurements for _, data in list_data_sources(m.options)]
    return list(dict.fromkeys([*found, *(data.path for data in given)]))


def resolved(suite: Suite) -> dict[str, Any]:
    """The suite with its defaults filled in, as plain JSON values; the same in every folder.

    A home folder in a path is written as ``~``.
    """
    text = suite.model_dump_json(exclude={"path": True, "limits": {"__all__": {"position"}}})
    home = json.dumps(str(Path.home()), ensure_ascii=False)[:-1].rstrip("/")
    plain: dict[str, Any] = json.loads(text.replace(f"{home}/", '"~/') if len(home) > 1 else text)
    return plain


def suite_sha256(suite: Suite) -> str:
    """The hash of `resolved`, whatever the order of keys in the file."""
    text = json.dumps(resolved(suite), sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

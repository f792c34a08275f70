"""A suite's model -> its files, or the reason why there are none. No torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from harness.suite.model_sources import (
    ModelFiles,
    SourceError,
    SourceUnavailable,
    resolve_model,
    resolve_tokenizer,
)
from harness.suite.models import Architecture, ModelSpec
from harness.worker.messages import Failure


def find_files(model: ModelSpec, folder: Path, online: bool) -> ModelFiles | Failure:
    """The files of a model declared in a suite that lies in ``folder``.

    Random weights have no folder yet, and a hash of what they will be made from.
    """
    try:
        if isinstance(model.source, Architecture):
            return _describe_random(model, model.source, folder, online)
        return resolve_model(
            model.source,
            revision=model.revision,
            tokenizer=model.tokenizer,
            folder=folder,
            online=online,
            allow_code=model.trust_remote_code,
        )
    except SourceUnavailable as error:
        return Failure("skipped", str(error))
    except (SourceError, OSError) as error:
        return Failure("failed", str(error))


def _describe_random(
    model: ModelSpec, source: Architecture, folder: Path, online: bool
) -> ModelFiles:
    recipe = json.dumps([source.model_dump(), model.seed], sort_keys=True)
    tokenizer, tokenizer_sha256 = (
        (None, None)
        if model.tokenizer is None
        else resolve_tokenizer(model.tokenizer, folder=folder, online=online)
    )
    return ModelFiles(
        folder=None,
        tokenizer_folder=tokenizer,
        revision=None,
        weights_sha256=hashlib.sha256(recipe.encode()).hexdigest(),
        tokenizer_sha256=tokenizer_sha256,
        weights_file_bytes=0,
    )

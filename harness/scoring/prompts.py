"""Prompts as a model gets them: as they are, or in the chat template of its tokenizer.

A model whose suite says ``chat_template: true`` gets the prompt as one turn of the user, with the
assistant's turn opened after it.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from harness.engines.base import Engine
from harness.errors import InputError

# Some templates write today's date: two runs would get different prompts. Llama 3's own default.
_TODAY = "26 Jul 2024"
# A block removes the line end after it, so the template still begins at the start of a line.
_PIN_DATE = f"{{% macro strftime_now(format) %}}{_TODAY}{{% endmacro %}}\n"


def render_prompt(engine: Engine, text: str) -> str:
    """``text`` as it is, or as a user's turn in the tokenizer's chat template.

    Raises `InputError` where a template is asked for and the tokenizer has none.
    """
    if not engine.job.model.chat_template:
        return text
    tokenizer: Any = engine.require_tokenizer()
    if not tokenizer.chat_template:
        raise InputError(
            f"{engine.job.model.name} has `chat_template: true`, and its tokenizer has no chat "
            "template: is it a base model? Remove the line, or set `tokenizer:` to one that has"
        )
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        chat_template=_PIN_DATE + tokenizer.get_chat_template(),
        tokenize=False,
        add_generation_prompt=True,
        date_string=_TODAY,
    )
    return rendered


def encode_all(engine: Engine, texts: Iterable[str]) -> dict[str, list[int]]:
    """Token ids by text, with the tokenizer's special tokens as in lm-evaluation-harness.

    A text that begins with the beginning-of-text token, as chat templates write it, gets no second
    one. An end-of-text token that a tokenizer appends is removed: the answer follows. Texts given
    together are shared among the tokenizer's threads.
    """
    tokenizer: Any = engine.require_tokenizer()
    groups: dict[bool, list[str]] = {True: [], False: []}
    for text in dict.fromkeys(texts):
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        groups[not begun].append(text)
    found: dict[str, list[int]] = {}
    for special, group in groups.items():
        encoded = tokenizer(group, add_special_tokens=special)["input_ids"] if group else []
        for text, ids in zip(group, encoded, strict=True):
            ended = special and ids and ids[-1] == tokenizer.eos_token_id
            found[text] = ids[:-1] if ended else ids
    return found


def prompt_protocol(engine: Engine) -> dict[str, Any]:
    """The part of a record's protocol that says how prompts were rendered."""
    if not engine.job.model.chat_template:
        return {"chat_template_sha256": None}
    template = str(getattr(engine.require_tokenizer(), "chat_template", ""))
    digest = hashlib.sha256(template.encode()).hexdigest()
    return {"chat_template_sha256": digest, "chat_template_date": _TODAY}

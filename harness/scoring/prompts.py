"""Prompts as a model gets them: as they are, or in the chat template of its tokenizer.

A model whose suite says ``chat_template: true`` gets the prompt as one turn of the user, with the
assistant's turn opened after it.
"""

import hashlib
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from harness.engines.base import Engine
from harness.errors import InputError

# Some templates write today's date: two runs would get different prompts. Llama 3's own default.
_TODAY = "26 Jul 2024"
# A block removes the line end after it, so the template still begins at the start of a line.
_PIN_DATE = f"{{% macro strftime_now(format) %}}{_TODAY}{{% endmacro %}}\n"

# Texts that begin with so many characters alike, and so many of them, have that tokenised once; by
# characters, each is tokenised from there on with an overlap, whose last tokens must be the same.
_ALIKE = 1024
_MANY = 8
_OVERLAP = 128
_SAME = 8


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
    together are shared among the tokenizer's threads, and what many begin with is tokenised once.
    """
    tokenizer: Any = engine.require_tokenizer()
    groups: dict[bool, list[str]] = {True: [], False: []}
    for text in dict.fromkeys(texts):
        begun = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        groups[not begun].append(text)
    found: dict[str, list[int]] = {}
    for special, group in groups.items():
        alone: list[str] = []
        for _, texts in groupby(sorted(group), key=lambda text: text[:_ALIKE]):
            alike = list(texts)
            encoded = _encode_alike(tokenizer, alike, special)
            found |= encoded
            alone += alike if not encoded else []
        found |= _encode(tokenizer, alone, special)
    return found


def _encode(tokenizer: Any, texts: list[str], special: bool) -> dict[str, list[int]]:
    given = {"add_special_tokens": special, "return_attention_mask": False}
    encoded = tokenizer(texts, **given)["input_ids"] if texts else []
    if special:
        encoded = [ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids for ids in encoded]
    return dict(zip(texts, encoded, strict=True))


def _encode_alike(tokenizer: Any, texts: list[str], special: bool) -> dict[str, list[int]]:
    """Sorted texts that begin alike, that beginning once; empty where this cannot be relied on.

    A word's end well before the first difference is the ``place``; from some way before it on each
    text is tokenised by itself. What it holds up to the place must be the tokens of the first text
    there, and what comes out for the first and the last text what they are as a whole.
    """
    first, last = texts[0], texts[-1]
    if len(texts) < _MANY or not tokenizer.is_fast:
        return {}
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    shared = next(differ, min(len(first), len(last)))
    lead = _count_until(tokenizer, first, special, range(shared - _OVERLAP))
    whole = _encode(tokenizer, [first, last], special)
    if lead is None:
        return {}
    count, place = lead
    tails = _encode(tokenizer, [text[place - _OVERLAP :] for text in texts], False)
    held = _count_until(tokenizer, first[place - _OVERLAP :], False, range(_OVERLAP, _OVERLAP + 1))
    if held is None:
        return {}
    before = tails[first[place - _OVERLAP :]][: held[0]]
    found = {}
    for text in texts:
        tail = tails[text[place - _OVERLAP :]]
        if tail[: held[0]] != before:
            return {}
        found[text] = whole[first][:count] + tail[held[0] :]
    same_before = before[-_SAME:] == whole[first][:count][-_SAME:]
    return found if same_before and all(found[text] == whole[text] for text in whole) else {}


def _count_until(tokenizer: Any, text: str, special: bool, places: range) -> tuple[int, int] | None:
    """Tokens up to the last end of a word's token among ``places``, and that place, if any."""
    given = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ends = [end if start < end else 0 for start, end in given["offset_mapping"]]
    found = (
        (number, end)
        for number, end in zip(range(len(ends), 0, -1), reversed(ends), strict=True)
        if end in places and end >= _OVERLAP and text[end - 1].isalnum()
    )
    return next(found, None)


def prompt_protocol(engine: Engine) -> dict[str, Any]:
    """The part of a record's protocol that says how prompts were rendered."""
    if not engine.job.model.chat_template:
        return {"chat_template_sha256": None}
    template = str(getattr(engine.require_tokenizer(), "chat_template", ""))
    digest = hashlib.sha256(template.encode()).hexdigest()
    return {"chat_template_sha256": digest, "chat_template_date": _TODAY}

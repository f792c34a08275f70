"""Checkpoints whose own code misbehaves at sequences of one length.

Real models, loaded with ``trust_remote_code: true``: a tiny Llama that hangs, dies or raises at
perplexity windows of `TRIGGER` tokens, the last of which is not fed. Before it hangs it writes its
process id to a pipe.
"""

from __future__ import annotations

import json
import os
import select
import shutil
from pathlib import Path
from typing import Literal

TRIGGER = 24
_CODE = f"""
import ctypes
import os
import signal

from transformers import LlamaForCausalLM


class MisbehavingForCausalLM(LlamaForCausalLM):
    def forward(self, input_ids=None, logits_to_keep=0, **given):
        if input_ids is not None and input_ids.shape[1] == {TRIGGER - 1}:
            getattr(self, self.config.misbehaviour)()
        return super().forward(input_ids=input_ids, logits_to_keep=logits_to_keep, **given)

    def hang(self):
        with open(self.config.pipe, "w") as pipe:
            pipe.write(f"{{os.getpid()}}\\n")
        while True:
            signal.pause()

    def segfault(self):
        ctypes.string_at(0)

    def throw(self):
        raise RuntimeError("the sky is falling\\nand more of it")

    def leave(self):
        os._exit(7)
"""


def write_misbehaving(
    folder: Path, calm: Path, behaviour: Literal["hang", "segfault", "throw", "leave"], pipe: Path
) -> Path:
    """A copy of the checkpoint ``calm`` that misbehaves."""
    shutil.copytree(calm, folder)
    (folder / "misbehaving.py").write_text(_CODE)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["MisbehavingForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "misbehaving.MisbehavingForCausalLM"},
        "misbehaviour": behaviour,
        "pipe": str(pipe),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class PidPipe:
    """A named pipe to which hanging models write their process ids."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Also for writing: else the pipe would end with its first writer.
        self._descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def wait(self, timeout_s: float = 240) -> int:
        """The process id of the next model that hangs."""
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        assert ready, "no model has reached its hanging measurement"
        return int(os.read(self._descriptor, 64).split()[0])

    def close(self) -> None:
        os.close(self._descriptor)

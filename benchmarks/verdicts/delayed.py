"""A decode loop that sleeps before every token, in the processes of one interpreter.

The product does not know about it: a ``sitecustomize`` on PYTHONPATH wraps the generator's decode
step when its module is imported, and a small script starts such an interpreter.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

_SITE = '''\
"""Sleeps {seconds} s before every decode step of the transformers engine's Generator."""

import importlib.abc
import importlib.util
import sys
import time

NAME = "harness.engines.transformers.generation"


def wrap(module):
    make = module.TransformersGenerator.__init__

    def make_delayed(self, *arguments, **named):
        make(self, *arguments, **named)
        decode = self._decode

        def step(**inputs):
            time.sleep({seconds})
            return decode(**inputs)

        self._decode = step

    module.TransformersGenerator.__init__ = make_delayed


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_wrap(module):
            execute(module)
            wrap(module)

        spec.loader.exec_module = execute_and_wrap
        return spec


sys.meta_path.insert(0, Finder())
'''


def make_delayed_python(folder: Path, seconds: float) -> str:
    """An executable that runs this interpreter, with ``seconds`` of sleep before every token."""
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(_SITE.format(seconds=repr(seconds)), encoding="utf-8")
    script = folder / "python"
    path = f"PYTHONPATH={shlex.quote(str(site))}${{PYTHONPATH:+:$PYTHONPATH}}"
    script.write_text(
        f'#!/bin/sh\n{path} exec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    return str(script)

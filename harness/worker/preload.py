"""What the fork server imports once, so that each cell's process starts in milliseconds.

Nothing here may initialise CUDA or start a thread: neither survives a fork. bitsandbytes (which
asks for the GPU when imported) and datasets (whose Arrow starts a thread) are left to the cells.
"""

import gc

gc.disable()  # else a fifth of the time goes into looking for garbage that imports do not leave

import torch  # noqa: E402, F401
import transformers.modeling_utils  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402, F401

import harness.models.load  # noqa: E402, F401

# What is imported stays: a cell that collects garbage need not look through it (0.25 s each time),
# nor copy its pages.
gc.freeze()
gc.enable()

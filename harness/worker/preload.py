"""What the fork server imports once, so that each cell's process starts in milliseconds.

Nothing here may initialise CUDA or start a thread: neither survives a fork. bitsandbytes (which
asks for the GPU when imported) and datasets (whose Arrow starts a thread) are left to the cells.
"""

import gc

import torch  # noqa: F401
import transformers.modeling_utils  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import harness.models.load  # noqa: F401

# What is imported stays: a cell that collects garbage need not look through it (0.25 s each time),
# nor copy its pages.
gc.collect()
gc.freeze()

"""The base model as training and the gate hold it in memory."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tandem.errors import ModelUnavailable
from tandem.weights import cpu_computes_bfloat16
from training.launch import gpu_here


def load_base(folder: Path) -> tuple[Any, Any]:
    """The base model, frozen, in the type that this machine computes fastest, and its tokenizer.

    Raises:
        ModelUnavailable: The folder holds no model that can be loaded.
    """
    transformers_logging.disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu or cpu_computes_bfloat16() else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise ModelUnavailable(f"The base model in {str(folder)!r} cannot be loaded: {exc}.") from exc
    model.requires_grad_(False)
    model.config.use_cache = False
    if on_gpu:
        torch.cuda.set_device(gpu_here())
    return model.to(f"cuda:{gpu_here()}" if on_gpu else "cpu"), tokenizer

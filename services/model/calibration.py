"""The embedder in int8: weights and activations, their ranges measured on texts that this project ships.

The texts are the chunks of the sample corpus, frozen in a file: were they read anew, an edited sample would make
another model, and every index would have to be built again.
"""

import json
from pathlib import Path
from typing import Any

CALIBRATION = Path(__file__).parent / "calibration.jsonl"
# The embedder's default; longer texts are cut when they are embedded too.
_MAX_TOKENS = 256


def calibration_texts(path: Path = CALIBRATION) -> list[str]:
    """The texts, a JSON string a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def quantise(network: Any, vocabulary: Path, texts: Path) -> Any:
    """Turns the matrix products of a network into int8.

    Args:
        network: OpenVINO model with the inputs `input_ids` and `attention_mask`, shape (n, tokens).
        vocabulary: Its `tokenizer.json`.
        texts: File of the calibration's texts.

    Returns:
        A model with the same inputs and output.
    """
    import nncf
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.no_padding()

    def feed(text: str) -> dict[str, Any]:
        encoding = tokenizer.encode(text)
        return {"input_ids": np.array([encoding.ids]), "attention_mask": np.array([encoding.attention_mask])}

    samples = calibration_texts(texts)
    return nncf.quantize(
        network,
        nncf.Dataset(samples, feed),
        model_type=nncf.ModelType.TRANSFORMER,  # keeps normalisation and softmax in float32
        preset=nncf.QuantizationPreset.MIXED,  # symmetric weights, asymmetric activations
        subset_size=len(samples),
        # Full range: CPUs that multiply int8 in hardware (VNNI) do not overflow, and only there it is used by itself.
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
    )

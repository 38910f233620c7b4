"""Whether a sentence answers a question: a small network that reads both together, as OpenVINO IR, without torch.

A search tells what a sentence is about, and the language model cannot well say what it does not know. This network was
trained on nothing but that one question (`training/cross_encoder.py`).
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from tandem.errors import ModelUnavailable
from tandem.weights import CROSS_ENCODER_IR

MAX_TOKENS = 128  # of question and context together


def context_of(title: str, heading: str, sentence: str) -> str:
    """A sentence with where it stands, as the network reads it."""
    heading = heading.rsplit(" > ", 1)[-1]
    place = f"{title} - {heading}" if heading and heading != title else title
    return f"{place}: {sentence.strip()}"


class CrossEncoder:
    """Reads questions and sentences on the CPU. Safe to call from several threads, which wait for one another.

    Args:
        model_dir: Prepared folder with `openvino_model.xml` and `tokenizer.json`.
        threads: That it may take; 0 takes all cores.

    Raises:
        ModelUnavailable: The folder lacks the model, or OpenVINO cannot read it.
    """

    def __init__(self, model_dir: Path, threads: int = 0) -> None:
        config: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
            model = ov.Core().compile_model(model_dir / CROSS_ENCODER_IR, "CPU", config)
        except Exception as exc:  # both libraries raise bare Exception or RuntimeError
            raise ModelUnavailable(
                f"The cross-encoder in {str(model_dir)!r} cannot be loaded: {exc}. "
                "Delete that folder and run `tandem models` to prepare it again."
            ) from exc
        self._tokenizer.enable_truncation(MAX_TOKENS)  # of the longer of both first
        self._tokenizer.enable_padding(pad_id=0)
        self._request = model.create_infer_request()
        self._lock = threading.Lock()

    def odds(self, question: str, contexts: Sequence[str]) -> list[float]:
        """How likely each sentence is to answer the question.

        Args:
            question: As it was searched with.
            contexts: From `context_of`.

        Returns:
            Log-odds in nats, in the order of the contexts.
        """
        if not contexts:
            return []
        encoded = self._tokenizer.encode_batch([(question, context) for context in contexts])
        feed = {
            "input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
            "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64),
            "token_type_ids": np.array([each.type_ids for each in encoded], dtype=np.int64),
        }
        with self._lock:
            self._request.infer(feed)
            return [float(value) for value in self._request.get_output_tensor(0).data]

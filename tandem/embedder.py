"""Dense vectors of texts: a sentence-transformer network as OpenVINO IR, without torch."""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov
from tokenizers import Encoding, Tokenizer

from tandem.errors import ModelUnavailable
from tandem.settings import EmbeddingSettings

Vectors = npt.NDArray[np.float32]

_FIRST = threading.Lock()


class Embedder:
    """Embeds texts on the CPU. Safe to call from several threads; a question does not wait for a whole ingest.

    Args:
        model_dir: Prepared folder with `openvino_model.xml` and `tokenizer.json`, named `MODEL-DIGEST12`.
        settings: Batch size, longest text, threads.

    Raises:
        ModelUnavailable: The folder lacks the model, or OpenVINO cannot read it.
    """

    def __init__(self, model_dir: Path, settings: EmbeddingSettings) -> None:
        network = model_dir / "openvino_model.xml"
        vocabulary = model_dir / "tokenizer.json"
        if not network.is_file() or not vocabulary.is_file():
            raise ModelUnavailable(
                f"The embedding model is not prepared: {str(model_dir)!r} holds no openvino_model.xml with its "
                "tokenizer.json. Run `tandem models` to prepare it."
            )
        self._settings = settings
        try:
            self._counter = Tokenizer.from_file(str(vocabulary))
            self._tokenizer = Tokenizer.from_file(str(vocabulary))
            config: dict[str, str | int] = {"PERFORMANCE_HINT": "THROUGHPUT"}
            if settings.threads:
                config["INFERENCE_NUM_THREADS"] = settings.threads
            model = ov.Core().compile_model(network, "CPU", config)
        except Exception as exc:  # both libraries raise bare Exception or RuntimeError
            raise ModelUnavailable(
                f"The embedding model in {str(model_dir)!r} cannot be loaded: {exc}. "
                "Delete that folder and run `tandem models` to prepare it again."
            ) from exc
        self._counter.no_truncation()
        self._counter.no_padding()
        self._tokenizer.enable_truncation(settings.max_tokens)
        self._tokenizer.no_padding()
        self._inputs = [port.get_any_name() for port in model.inputs]
        self.dimension: int = model.output(0).get_partial_shape()[1].get_length()
        self.model_id: str = model_dir.name
        # One more than the CPU works on at a time: an ingest leaves one for a question that comes in between.
        self._in_flight = int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for _ in range(self._in_flight + 1):
            self._idle.put(model.create_infer_request())
        # OpenVINO's binding fills C++ statics at its first request and gives Python's lock away meanwhile: of two first
        # requests at once one waits for the lock and the other, which holds it, for the statics, for ever.
        with _FIRST:
            self.embed(["first"])

    def count_tokens(self, text: str) -> int:
        """The tokens of a text, without the two that mark its ends and without truncation."""
        return len(self._counter.encode(text, add_special_tokens=False))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embeds texts; each beyond `max_tokens` is read up to there.

        Args:
            texts: Any number of texts.

        Returns:
            float32, shape (len(texts), dimension), each row of length 1, in the order of `texts`.
        """
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        running: deque[tuple[list[int], ov.InferRequest]] = deque()
        try:
            for rows in self._batches(encodings):
                request = self._free(running, vectors)
                running.append((rows, request))
                request.start_async(self._feed([encodings[row] for row in rows]), share_inputs=False)
            while running:
                self._collect(*running.popleft(), vectors)
        finally:
            for _, request in running:  # after an error only
                request.wait()
                self._idle.put(request)
        return vectors

    def _free(self, running: deque[tuple[list[int], ov.InferRequest]], vectors: Vectors) -> ov.InferRequest:
        """A request to compute with. Nobody waits for one while holding others: two who did would wait for ever."""
        while running:
            if len(running) < self._in_flight:
                with suppress(queue.Empty):
                    return self._idle.get_nowait()
            self._collect(*running.popleft(), vectors)
        return self._idle.get()

    def _batches(self, encodings: Sequence[Encoding]) -> Iterator[list[int]]:
        # Long texts first: a batch is padded to its longest, and the last batches are the quick ones.
        order = sorted(range(len(encodings)), key=lambda row: -len(encodings[row]))
        batch: list[int] = []
        for row in order:
            if batch and len(encodings[batch[0]]) * (len(batch) + 1) > self._settings.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _feed(self, encodings: Sequence[Encoding]) -> dict[str, npt.NDArray[np.int64]]:
        shape = (len(encodings), max(len(encoding) for encoding in encodings))
        arrays = {name: np.zeros(shape, dtype=np.int64) for name in self._inputs}
        for row, encoding in enumerate(encodings):
            arrays["input_ids"][row, : len(encoding)] = encoding.ids
            arrays["attention_mask"][row, : len(encoding)] = 1  # token_type_ids stay 0
        return arrays

    def _collect(self, rows: list[int], request: ov.InferRequest, vectors: Vectors) -> None:
        try:
            request.wait()
            found = request.get_output_tensor(0).data
            vectors[rows] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        finally:
            self._idle.put(request)

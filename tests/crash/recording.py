"""The answers of the real embedder and the real sandbox, recorded once and given again in processes to be killed.

A process that is to be forked can hold neither: the embedder has threads, the sandbox has a child.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ingest.readers import Reading
from ingest.sandbox import Sandbox
from tandem.embedder import Embedder, Vectors

QUESTION = "What does it cost?"


class RecordingEmbedder:
    """Test double around the real embedder, which keeps what it answered."""

    def __init__(self, real: Embedder) -> None:
        self._real = real
        self.model_id, self.dimension = real.model_id, real.dimension
        self._held: dict[str, Vectors] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = self._real.embed(texts)
        self._held.update(zip(texts, vectors, strict=True))
        return vectors

    @property
    def held(self) -> dict[str, Vectors]:
        """Text -> vector."""
        return self._held


class RecordedEmbedder:
    """Test double: gives the recorded vectors, and logs every text but the question that it was asked for."""

    def __init__(self, folder: Path, log: Path) -> None:
        with np.load(folder / "vectors.npz") as held:
            self._vectors = dict(zip(held["texts"].tolist(), held["vectors"], strict=True))
            self.model_id = str(held["model_id"])
        self.dimension = len(next(iter(self._vectors.values())))
        self._log = log

    def embed(self, texts: Sequence[str]) -> Vectors:
        with self._log.open("a", encoding="utf-8") as log:
            log.writelines("x\n" for text in texts if text != QUESTION)
        return np.array([self._vectors[text] for text in texts], dtype=np.float32).reshape(-1, self.dimension)


class RecordingSandbox:
    """Test double around the real sandbox, which keeps what it answered."""

    def __init__(self, real: Sandbox) -> None:
        self._real = real
        self._held: dict[str, object] = {}

    def parse(self, name: str, data: bytes) -> Reading:
        reading = self._real.parse(name, data)
        self._held[_key(name, data)] = reading.model_dump(mode="json")
        return reading

    def close(self) -> None:
        self._real.close()

    @property
    def held(self) -> dict[str, object]:
        """Name and content -> reading."""
        return self._held


class RecordedSandbox:
    """Test double: gives the recorded readings. Reading writes nothing, so a kill in it leaves nothing."""

    def __init__(self, folder: Path) -> None:
        self._held = json.loads((folder / "readings.json").read_text(encoding="utf-8"))

    def parse(self, name: str, data: bytes) -> Reading:
        return Reading.model_validate(self._held[_key(name, data)])

    def close(self) -> None:
        pass


def write_recording(
    folder: Path, vectors: Mapping[str, Any], readings: Mapping[str, object], model_id: str = "m"
) -> None:
    """Keeps what was recorded, for `RecordedEmbedder` and `RecordedSandbox`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.array(list(vectors.values()), dtype=np.float32)
    np.savez(folder / "vectors.npz", texts=np.array(list(vectors)), vectors=values, model_id=model_id)
    (folder / "readings.json").write_text(json.dumps(readings), encoding="utf-8")


def _key(name: str, data: bytes) -> str:
    return f"{name} {hashlib.sha256(data).hexdigest()}"

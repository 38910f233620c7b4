"""Checkpoints of a run that was broken off, and which of them can be gone on from."""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_callback import EarlyStoppingCallback, TrainerState

from tandem.registry import WEIGHTS
from training.launch import is_main_process

_STATE = "trainer_state.json"  # the last thing that the trainer writes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was written to its end.

    Attributes:
        folder: With the weights and what the optimiser remembers.
        state: Where the run stood.
    """

    folder: Path
    state: TrainerState

    @property
    def best(self) -> Path:
        """Folder of the checkpoint with the best held-out loss so far."""
        return self.folder.with_name(f"checkpoint-{self.state.best_global_step}")

    def ended_early(self, patience: int) -> bool:
        """Whether the run was through: the held-out loss had not got better for `patience` measurements."""
        stored = self.state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
        return stored is not None and int(stored["attributes"]["early_stopping_patience_counter"]) >= patience


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run. Those that a kill left unfinished are removed.

    Args:
        folder: Of the run; need not exist.
    """
    found = []
    for path in folder.glob("checkpoint-*"):
        if (checkpoint := _read(path)) is not None:
            found.append(checkpoint)
        elif is_main_process():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
    return max(found, key=lambda checkpoint: checkpoint.state.global_step, default=None)


def _read(path: Path) -> Checkpoint | None:
    try:
        state = TrainerState.load_from_json(str(path / _STATE))
        with safe_open(path / WEIGHTS, framework="pt"):  # compares the file's length with its header
            return Checkpoint(path, state)
    except (OSError, ValueError, TypeError, SafetensorError):
        return None

"""How a training run is going, from the trainer's log."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback


@dataclass(frozen=True)
class Progress:
    """Where a training run stands.

    Attributes:
        loss: Mean over the steps since the last report, nats a token.
        heldout_loss: The last one measured, nats an answer token; None before the first.
        tokens_per_second: Tokens of the rows, prefixes counted once.
        seconds_left: At the present speed.
    """

    step: int
    steps: int
    loss: float
    heldout_loss: float | None
    tokens_per_second: float
    seconds_left: float


OnProgress = Callable[[Progress], None]


def seconds_spent(state: Any) -> float:
    """Time that training had taken when the trainer's state was last written."""
    return max((entry.get("elapsed", 0.0) for entry in state.log_history), default=0.0)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Turns the trainer's log into `Progress`; keeps the time in the checkpoints, for a run that is resumed.

    Args:
        tokens: Of each step, in order.
        on_progress: Told at each line of the log, in the main process.
    """

    def __init__(self, tokens: Sequence[int], on_progress: OnProgress | None) -> None:
        self._tokens = list(tokens)
        self._on_progress = on_progress
        self._first = 0
        self._before = 0.0
        self._heldout: float | None = None
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on training, earlier parts of the run included."""
        return self._before + time.monotonic() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first = state.global_step
        self._before = seconds_spent(state)
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True  # where a run may end or go on, so that no step's loss is left out

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.log_history:
            state.log_history[-1]["elapsed"] = round(self.seconds, 1)
        if not logs:
            return
        self._heldout = logs.get("eval_loss", self._heldout)
        if self._on_progress is None or "loss" not in logs or not state.is_world_process_zero:
            return
        done = state.global_step
        speed = sum(self._tokens[self._first : done]) / max(time.monotonic() - self._started, 1e-9)
        left = sum(self._tokens[done:]) / max(speed, 1e-9)
        self._on_progress(Progress(done, state.max_steps, float(logs["loss"]), self._heldout, speed, left))

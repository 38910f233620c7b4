"""What a training run says of itself while it goes on."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from tandem.schemas import Value

Stage = Literal["guard", "augment", "train", "gate", "register"]


class TrainingEvent(Value):
    """One line of a run's log.

    Attributes:
        message: For people.
        data: For programs: in the stage `train` step, steps, loss, heldout_loss, tokens_per_second, seconds_left.
    """

    stage: Stage
    message: str
    data: dict[str, float] = Field(default_factory=dict)


OnEvent = Callable[[TrainingEvent], None]
Say = Callable[[Stage, str], None]


def sayer(on_event: OnEvent | None) -> Say:
    """A way to report in words; without a listener nobody is told."""

    def say(stage: Stage, message: str) -> None:
        if on_event is not None:
            on_event(TrainingEvent(stage=stage, message=message))

    return say

"""What an adapter must fit to be served: the base model, its modules and the largest rank."""

from pathlib import Path

from pydantic import Field
from safetensors import SafetensorError, safe_open

from tandem.errors import ModelUnavailable
from tandem.schemas import Value
from tandem.settings import Settings
from tandem.weights import base_dir, model_digest


class Serving(Value):
    """What is known of the model that adapters are served on.

    Attributes:
        max_rank: The largest rank that the model server takes; None when nobody said.
        base_digest: Of the base model's weights; None where this process cannot see them.
        modules: For each module of the base model, output and input size; empty where they cannot be seen.
        like_active: They cannot be seen, so an adapter must fit what the active version fits.
    """

    max_rank: int | None = None
    base_digest: str | None = None
    modules: dict[str, tuple[int, int]] = Field(default_factory=dict)
    like_active: bool = False


def serving_of(settings: Settings) -> Serving:
    """Reads what the settings tell. Where a model server elsewhere names no folder here, only the rank is known."""
    rank = settings.model.max_lora_rank
    if settings.model.endpoints and settings.model.path is None:
        return Serving(max_rank=rank, like_active=True)
    try:
        folder = base_dir(settings)
        return Serving(max_rank=rank, base_digest=model_digest(folder), modules=_modules(folder))
    except ModelUnavailable:  # not prepared yet
        return Serving(max_rank=rank, like_active=True)


def _modules(folder: Path) -> dict[str, tuple[int, int]]:
    """Output and input size of every matrix, from the heads of the weight files."""
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    shape = file.get_slice(name).get_shape()
                    if len(shape) == 2 and name.endswith(".weight"):
                        found[name.removesuffix(".weight")] = (shape[0], shape[1])
        except (OSError, SafetensorError) as exc:
            raise ModelUnavailable(f"The base model's file {str(path)!r} cannot be read: {exc}.") from exc
    return found

"""What training writes for an adapter, with the real PEFT."""

import json
from pathlib import Path

from tandem.manifest import CONFIG
from tandem.settings import load_settings
from training.adapter_weights import save_adapter
from training.base_model import load_base
from training.row_trainer import lora_model


def test_the_same_adapter_is_written_byte_for_byte(tiny: Path, tmp_path: Path) -> None:
    """PEFT keeps the target modules in a set, whose order differs from process to process; the digest is of the file.

    By chance a set of seven is in order once in 5,040 times.
    """
    settings = load_settings(training={"rank": 4}).training
    save_adapter(lora_model(load_base(tiny)[0], settings), tmp_path)
    targets = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))["target_modules"]
    assert len(targets) == 7
    assert targets == sorted(settings.targets)

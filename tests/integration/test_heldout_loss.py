"""When training ends, on what it goes on, and whose weights are kept: real steps on a tiny model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tandem.settings import TrainingSettings, load_settings
from tests.integration.made_up_rows import rows_of_one_topic
from training.progress import Progress
from training.row_trainer import RowTrainer
from training.rows import Row
from training.trainer import load_base, save_adapter, train_adapter


def settings(**training: Any) -> TrainingSettings:
    return load_settings(training={"rank": 8, "learning_rate": 5e-3, "batch_size": 4} | training).training


def test_training_ends_when_the_heldout_loss_rises_and_the_best_weights_stay(tiny: Path, tmp_path: Path):
    chosen = settings(eval_steps=2, patience=2, learning_rate=2e-2)
    rows, heldout = rows_of_one_topic(80, 7, 1), rows_of_one_topic(4, 8, 2)
    seen: list[Progress] = []
    model, tokenizer = load_base(tiny)
    trained = train_adapter(model, tokenizer, rows, chosen, tmp_path / "run", seen.append, heldout=heldout)
    assert trained.outcome.steps < 40  # of the rows for which there are steps
    assert trained.outcome.best_step == trained.outcome.steps - 2 * chosen.eval_steps
    assert seen[-1].heldout_loss is not None
    assert seen[-1].heldout_loss > trained.outcome.heldout_loss
    best = load_file(tmp_path / "run" / f"checkpoint-{trained.outcome.best_step}" / "adapter_model.safetensors")
    kept = load_file(tmp_path / "run" / "trained" / "adapter_model.safetensors")
    for name, tensor in best.items():
        assert torch.equal(kept[name], tensor), name

    again, _ = load_base(tiny)  # killed in the gate, say, and started again: no step is made twice
    resumed = train_adapter(again, tokenizer, rows, chosen, tmp_path / "run", seen.append, heldout=heldout)
    assert resumed.outcome == trained.outcome
    save_adapter(trained.model, tmp_path / "one")
    save_adapter(resumed.model, tmp_path / "two")
    assert (tmp_path / "one" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "two" / "adapter_model.safetensors"
    ).read_bytes()


def test_the_heldout_loss_weighs_answer_tokens(tiny: Path, tmp_path: Path):
    short, long = rows_of_one_topic(1, 7, 1)[0], rows_of_one_topic(1, 8, 2)[0]
    short = Row(short.ids, short.positions, short.branches, short.predict_at[:2], short.targets[:2])

    def loss(*rows: Row) -> float:
        base, tokenizer = load_base(tiny)
        chosen = settings(eval_steps=1, batch_size=2, learning_rate=1e-9)
        outcome = train_adapter(
            base, tokenizer, [short], chosen, tmp_path / str(len(list(tmp_path.iterdir()))), heldout=rows
        ).outcome
        assert outcome.heldout_loss is not None
        return outcome.heldout_loss

    assert loss(short, long) == pytest.approx((2 * loss(short) + 12 * loss(long)) / 14, rel=1e-3)


def test_a_step_in_parts_is_the_same_step(tiny: Path, tmp_path: Path):
    rows = rows_of_one_topic(8, 7, 1)
    rows[1] = Row(rows[1].ids, rows[1].positions, rows[1].branches, rows[1].predict_at[:3], rows[1].targets[:3])

    def weights(accumulation: int) -> dict[str, torch.Tensor]:
        base, tokenizer = load_base(tiny)
        folder = tmp_path / str(accumulation)
        train_adapter(base.float(), tokenizer, rows, settings(accumulation=accumulation), folder)
        return load_file(folder / "trained" / "adapter_model.safetensors")

    whole, parts = weights(1), weights(2)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-2, atol=1e-4, msg=name)


def test_fused_layers_are_taken(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if torch.cuda.is_available():
        pytest.skip("a GPU computes transformers' own layers")
    fused: list[bool] = []
    compute = RowTrainer.compute_loss

    def watched(self: RowTrainer, *args: Any, **kwargs: Any) -> Any:
        fused.append(self._fused)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(RowTrainer, "compute_loss", watched)
    base, tokenizer = load_base(tiny)
    train_adapter(base, tokenizer, rows_of_one_topic(2, 7, 1), settings(), tmp_path)
    assert fused == [True]
    assert "forward" not in vars(base.model.layers[0])

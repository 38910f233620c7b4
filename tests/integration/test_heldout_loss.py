"""When training ends, on what it goes on, and whose weights are kept: real steps on a tiny model."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tandem.errors import AdapterError, InputError
from tandem.settings import TrainingSettings, load_settings
from tests.integration.made_up_rows import rows_of_one_topic
from training.adapter_weights import save_adapter
from training.base_model import load_base
from training.progress import Progress
from training.row_draws import _batched
from training.row_trainer import RowTrainer, rows_per_batch, rows_per_step
from training.rows import Row
from training.trainer import train_adapter


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


def test_a_run_that_was_killed_once_it_had_ended_early_makes_no_further_step(tiny: Path, tmp_path: Path):
    chosen = settings(eval_steps=2, patience=2, learning_rate=2e-2)
    rows, heldout = rows_of_one_topic(80, 7, 1), rows_of_one_topic(4, 8, 2)
    model, tokenizer = load_base(tiny)
    trained = train_adapter(model, tokenizer, rows, chosen, tmp_path, heldout=heldout)
    kept = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    shutil.rmtree(tmp_path / "trained")  # the kill came before it was written

    again, _ = load_base(tiny)
    seen: list[Progress] = []
    resumed = train_adapter(again, tokenizer, rows, chosen, tmp_path, seen.append, heldout=heldout)
    assert seen == []
    timeless = {"seconds": 0.0, "peak_mib": 0.0}
    assert resumed.outcome.model_copy(update=timeless) == trained.outcome.model_copy(update=timeless)
    assert resumed.outcome.seconds > 0
    for name, tensor in load_file(tmp_path / "trained" / "adapter_model.safetensors").items():
        assert torch.equal(kept[name], tensor), name


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


BREAKS: dict[str, Callable[[Path], None]] = {
    "state missing": lambda folder: (folder / "trainer_state.json").unlink(),
    "state cut off": lambda folder: cut(folder / "trainer_state.json"),
    "weights cut off": lambda folder: cut(folder / "adapter_model.safetensors"),
}


@pytest.mark.parametrize("break_off", BREAKS.values(), ids=BREAKS)
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    break_off: Callable[[Path], None], tiny: Path, tmp_path: Path
):
    chosen, rows = settings(eval_steps=2), rows_of_one_topic(12, 7, 1)

    def train() -> tuple[dict[str, torch.Tensor], list[int], float]:
        base, tokenizer = load_base(tiny)
        steps: list[int] = []
        trained = train_adapter(base, tokenizer, rows, chosen, tmp_path, lambda at: steps.append(at.step))
        return load_file(tmp_path / "trained" / "adapter_model.safetensors"), steps, trained.outcome.loss

    whole, steps, loss = train()
    assert steps == [2, 4, 5, 6]
    for newest, made in ((6, [5, 6]), (4, [2, 4, 5, 6])):  # the last one; then both that there are
        shutil.rmtree(tmp_path / "trained")
        if newest == 4:
            break_off(tmp_path / "checkpoint-6")
        break_off(tmp_path / f"checkpoint-{newest}")
        again, steps, same = train()
        assert steps == made
        assert same == pytest.approx(loss, rel=1e-4)
        for name, tensor in whole.items():
            assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize("heldout", [0, 4])
def test_the_loss_is_the_mean_over_all_steps(heldout: int, tiny: Path, tmp_path: Path):
    seen: list[Progress] = []
    chosen, rows = settings(eval_steps=3), rows_of_one_topic(14, 7, 1)  # seven steps
    base, tokenizer = load_base(tiny)
    asked = rows_of_one_topic(heldout, 7, 2)
    outcome = train_adapter(base, tokenizer, rows, chosen, tmp_path, seen.append, heldout=asked).outcome
    steps = [0, *(at.step for at in seen)]
    assert steps == [0, 3, 5, 6, 7]
    mean = sum(at.loss * (at.step - before) for at, before in zip(seen, steps, strict=False)) / 7
    assert outcome.loss == pytest.approx(mean, abs=1e-4)


def test_weights_are_gone_on_from_under_their_own_rank_alpha_and_targets(tiny: Path, tmp_path: Path):
    rows, chosen = rows_of_one_topic(4, 7, 1), settings()
    base, tokenizer = load_base(tiny)
    save_adapter(train_adapter(base, tokenizer, rows, chosen, tmp_path / "run").model, tmp_path / "start")

    def go_on(**changed: Any) -> None:
        base, _ = load_base(tiny)
        folder = tmp_path / "-".join(changed)
        train_adapter(base, tokenizer, rows, settings(**changed), folder, start=tmp_path / "start")

    go_on(batch_size=8)
    with pytest.raises(AdapterError, match="TANDEM_TRAINING__ALPHA is 64 and was 32"):
        go_on(alpha=64)
    with pytest.raises(AdapterError, match=r"RANK is 4 and was 8; .*TARGETS is \['q_proj'\] and was \['down_proj'"):
        go_on(rank=4, targets=("q_proj",))


def test_an_adapter_names_its_base_model_and_not_where_it_lies(tiny: Path, tmp_path: Path):
    base, tokenizer = load_base(tiny)
    trained = train_adapter(base, tokenizer, rows_of_one_topic(2, 7, 1), settings(), tmp_path / "run")
    save_adapter(trained.model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == tiny.name
    assert str(tiny) not in json.dumps(config)
    PeftModel.from_pretrained(load_base(tiny)[0], tmp_path / "adapter")  # reads its weights all the same


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


@pytest.mark.parametrize(("batch_size", "accumulation", "world"), [(8, 3, 1), (2, 2, 1), (8, 1, 3), (8, 2, 4)])
def test_a_step_that_cannot_be_divided_is_refused(
    batch_size: int, accumulation: int, world: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    chosen = settings(batch_size=batch_size, accumulation=accumulation)
    with pytest.raises(InputError, match=f"multiple of {2 * accumulation * world} examples"):
        rows_per_batch(chosen)


def test_a_step_is_of_as_many_rows_however_it_is_divided(monkeypatch: pytest.MonkeyPatch):
    chosen = settings(batch_size=8)
    assert (rows_per_step(chosen), rows_per_batch(chosen)) == (4, 4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    chosen = settings(batch_size=8, accumulation=2)
    assert (rows_per_step(chosen), rows_per_batch(chosen)) == (4, 1)


def test_rows_of_like_length_share_a_step_in_every_pass():
    rows = [Row((0,) * length, (), (), (), ()) for length in range(1, 11)]
    batched, left = _batched(rows, 4, random.Random(1))
    assert len(batched) == 8
    assert {len(row.ids) for row in left} == {9, 10}
    lengths = [sorted(len(row.ids) for row in batched[at : at + 4]) for at in (0, 4)]
    assert sorted(lengths) == [[1, 2, 3, 4], [5, 6, 7, 8]]


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

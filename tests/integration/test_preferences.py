"""The second stage of training, on a tiny model: pairs of answers, and TRL's DPO over them."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict

from tandem.errors import ExampleError
from tandem.settings import load_settings
from training.base_model import load_base
from training.preference_stage import train_on_preferences
from training.preferences import guard_preferences, load_preferences
from training.row_trainer import lora_model

PAIR = {
    "question": "What is the fee?",
    "sources": [{"title": "Fees", "text": "The fee is 45 euros."}],
    "chosen": "The fee is 45 euros [1].",
    "rejected": "Well, I would say that it might be 45 euros or so!",
    "approved_by": "Ada",
}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_lines_that_are_no_pairs_are_named(tmp_path: Path):
    assert len(load_preferences(written(tmp_path, PAIR, PAIR))) == 2
    with pytest.raises(ExampleError, match=r"pairs.jsonl, line 2: 'rejected' is wrong"):
        load_preferences(written(tmp_path, PAIR, {k: v for k, v in PAIR.items() if k != "rejected"}))
    with pytest.raises(ExampleError, match="line 1: both answers are the same"):
        load_preferences(written(tmp_path, PAIR | {"rejected": PAIR["chosen"]}))
    with pytest.raises(ExampleError, match="TANDEM_TRAINING__PREFERENCES"):
        load_preferences(tmp_path / "none.jsonl")


def test_guards_look_at_both_answers(tmp_path: Path):
    rows = [
        PAIR,
        PAIR | {"question": "Who?", "approved_by": ""},
        PAIR | {"question": "How?", "rejected": "Write to ada.lovelace@company.com."},
        PAIR | {"question": "When?", "chosen": "Call +44 20 7946 0958 [1]."},
        PAIR | {"question": "Why?", "rejected": "No idea."},
    ]
    guarded = guard_preferences(load_preferences(written(tmp_path, *rows)))
    assert [p.question for p in guarded.preferences] == ["What is the fee?", "Why?"]
    assert [(r.number, r.reason) for r in guarded.refusals] == [(2, "unapproved"), (3, "email"), (4, "phone")]


def test_the_same_rejected_answer_is_looked_at_each_time(tmp_path: Path):
    leaking = PAIR | {"rejected": "Write to ada.lovelace@company.com."}
    rows = [leaking, leaking | {"chosen": "It is 45 euros [1]."}]
    guarded = guard_preferences(load_preferences(written(tmp_path, *rows)))
    assert guarded.preferences == ()
    assert [(r.number, r.reason) for r in guarded.refusals] == [(1, "email"), (2, "email")]


def test_only_whole_pairs_come_twice(tmp_path: Path):
    rows = [
        PAIR | {"approved_by": ""},
        PAIR,
        PAIR | {"rejected": "No idea."},
        PAIR | {"chosen": "It is 45 euros [1]."},
        PAIR | {"rejected": "no  idea!"},
        PAIR | {"sources": [{"title": "Dues", "text": "The fee is 45 euros."}]},
    ]
    guarded = guard_preferences(load_preferences(written(tmp_path, *rows)))
    assert guarded.preferences == tuple(load_preferences(written(tmp_path, *rows[1:4])))
    assert [(r.number, r.reason) for r in guarded.refusals] == [(1, "unapproved"), (5, "duplicate"), (6, "duplicate")]
    assert guarded.refusals[1].message.startswith("It is the same as pair 3,")


def test_chosen_answers_become_likelier_than_rejected_ones(tiny: Path, tmp_path: Path):
    settings = load_settings(
        training={"rank": 8, "preference_passes": 3, "preference_learning_rate": 5e-3, "max_tokens": 400}
    ).training
    base, tokenizer = load_base(tiny)
    model = lora_model(base, settings)
    before = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    pairs = load_preferences(written(tmp_path, *[PAIR | {"question": f"What is fee {n}?"} for n in range(3)]))

    found = train_on_preferences(model, tokenizer, pairs, settings, tmp_path / "run")
    assert (found.pairs, found.steps) == (3, 3)
    assert found.loss < 0.6  # 0.69 before
    assert found.margin > 0.2
    assert list(model.peft_config) == ["default"]
    assert model.active_adapters == ["default"]
    after = get_peft_model_state_dict(model)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())

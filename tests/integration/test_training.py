"""Real LoRA steps on a tiny random model of the base model's architecture, with its real tokenizer."""

import json
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tandem.errors import AdapterError, Busy, ExampleError, InputError, ModelUnavailable
from tandem.prompt import PROMPT_VERSION, Source
from tandem.registry import Registry
from tandem.settings import Settings, TrainingSettings, load_settings
from tandem.style import load_style
from tests.adapter_files import add_adapter
from training.adapter_weights import save_adapter
from training.augment import Augmenter
from training.base_model import load_base
from training.corpus import open_corpus
from training.draws import Draw, Question
from training.events import TrainingEvent
from training.examples import StyleExample, data_digest, group_by_sources, load_examples
from training.job import _pinned, _Run, run_lock, train
from training.launch import processes
from training.material import Material, halve
from training.preferences import load_preferences, preferences_digest
from training.recipe import _recipe
from training.result import read_result
from training.row_draws import draw_rows
from training.rows import collate, render_row
from training.trainer import Trained, train_adapter

GATE = {"hostile": 4, "counterfactuals": 4, "least_questions": 2, "closed_book": 4, "canaries": 4, "controls": 1000}
TRAINING = {"rank": 8, "learning_rate": 5e-3, "passes": 1.0, "gate_examples": 8, "batch_size": 4, "gate": GATE}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the sample examples."""
    path = tmp_path_factory.mktemp("few") / "examples.jsonl"
    lines = load_settings().training.examples.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:14]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def configured(tiny: Path, few: Path, tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", model={"path": tiny}, training=TRAINING | {"examples": few})


def rows_of(settings: Settings, tokenizer: Any) -> list[Any]:
    groups = group_by_sources(load_examples(settings.training.examples))
    augmenter = Augmenter(groups, load_style(settings.style), open_corpus(groups, settings))
    return draw_rows(augmenter, tokenizer, settings.training)


def test_shared_prefixes_give_the_loss_of_separate_prompts(tiny: Path):
    model, tokenizer = load_base(tiny)
    sources = (Source("Rules", "Fees", "The fee is 45 euros. Members pay 12."), Source("Old", "", "Nothing here."))
    questions = (
        Question("What is the fee?", "The fee is 45 euros [1].", True),
        Question("Who says so, and since when does it hold for us?", "I can't find that in the documents.", False),
        Question("members?", "Members pay 12 [1].", True),
    )
    together = render_row([Draw(sources, "=== 1a2b3c ===", questions)], tokenizer, 640)
    apart = [render_row([Draw(sources, "=== 1a2b3c ===", (question,))], tokenizer, 640) for question in questions]
    assert len(together.ids) < 0.6 * sum(len(row.ids) for row in apart)

    def losses(rows: list[Any]) -> torch.Tensor:
        batch = collate(rows, tokenizer.pad_token_id)
        hidden = model.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"]
        ).last_hidden_state
        logits = model.lm_head(hidden[batch["predict_row"], batch["predict_at"]])
        return torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="none")

    def plain(row: Any) -> torch.Tensor:
        """The same by the model's own causal mask and positions, without any of ours."""
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids).logits[0, list(row.predict_at)]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="none")

    with torch.no_grad():
        expected = torch.cat([plain(row) for row in apart])
        torch.testing.assert_close(losses([together]), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(losses(apart), expected, atol=1e-4, rtol=1e-4)
    assert together.targets == tuple(target for row in apart for target in row.targets)
    assert tokenizer.decode(apart[0].targets) == "The fee is 45 euros [1].<|im_end|>"


def test_a_question_too_long_is_named(tiny: Path):
    _, tokenizer = load_base(tiny)
    draw = Draw((Source("T", "", "word " * 700),), "===", (Question("How long?", "Long [1].", True),))
    with pytest.raises(ExampleError, match=r"'How long\?' takes .* 640 are allowed"):
        render_row([draw], tokenizer, 640)


class Drawn:
    """In the place of an augmenter: gives these draws on each pass."""

    def __init__(self, *lengths: int) -> None:
        question = Question("How long?", "Long [1].", True)
        self._draws = [Draw((Source("T", "", "word " * words),), "===", (question,)) for words in lengths]

    def one_pass(self, rng: random.Random) -> Iterator[Draw]:
        yield from self._draws


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([9, 700, 9], 2),
        ([9] * 61 + [700] * 3, 61),
        ([9] * 61 + [700] * 4, None),
        ([9, *[700] * 4], None),
        ([700], None),
    ],
)
def test_a_few_draws_that_are_too_long_are_left_out(lengths: list[int], rows: int | None, tiny: Path):
    _, tokenizer = load_base(tiny)
    settings = TrainingSettings(passes=1.0)
    if rows is None:
        with pytest.raises(ExampleError, match="640 are allowed"):
            draw_rows(Drawn(*lengths), tokenizer, settings)  # type: ignore[arg-type]
    else:
        told: list[tuple[int, str]] = []
        found = draw_rows(Drawn(*lengths), tokenizer, settings, lambda *about: told.append(about))  # type: ignore[arg-type]
        assert len(found) == rows
        ((count, first),) = told
        assert count == len(lengths) - rows
        assert "640 are allowed" in first


def test_loss_falls_and_the_adapter_loads_in_peft(configured: Settings, tiny: Path, tmp_path: Path):
    model, tokenizer = load_base(tiny)
    seen: list[Any] = []
    rows = rows_of(configured, tokenizer)
    frozen = model.model.embed_tokens.weight.detach().clone()
    trained = train_adapter(model, tokenizer, rows, configured.training, tmp_path / "run", seen.append)
    assert seen[-1].loss < seen[0].loss - 0.5
    assert trained.outcome.steps == (len(rows) + 1) // 2
    assert trained.outcome.steps - 5 < seen[-1].step <= trained.outcome.steps == seen[-1].steps
    assert seen[-1].tokens_per_second > 0
    assert torch.equal(model.model.embed_tokens.weight, frozen)

    save_adapter(trained.model, tmp_path / "adapter")
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert len(state) == 2 * 7 * 2  # A and B, seven modules, two layers
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny, dtype=model.dtype), tmp_path / "adapter"
    )
    ids = torch.tensor([rows[0].ids[:40]])
    with torch.no_grad():
        mine, theirs = trained.model(ids).logits.float(), again(ids).logits.float()
        assert (theirs - mine).norm() < 0.02 * mine.norm()  # it is written in bfloat16
        with again.disable_adapter():
            assert (again(ids).logits.float() - mine).norm() > 0.1 * mine.norm()


def test_a_run_that_goes_on_ends_at_the_mean_of_its_start_and_what_it_was_trained_to(
    configured: Settings, tiny: Path, tmp_path: Path
):
    model, tokenizer = load_base(tiny)
    rows = rows_of(configured, tokenizer)[:20]
    first = train_adapter(model, tokenizer, rows, configured.training, tmp_path / "first")
    save_adapter(first.model, tmp_path / "adapter")
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = {}
    for share in (0.0, 0.25, 0.75):
        settings = configured.training.model_copy(update={"start_share": share, "seed": 5})
        again = train_adapter(
            load_base(tiny)[0], tokenizer, rows, settings, tmp_path / "again", start=tmp_path / "adapter"
        )
        kept[share] = get_peft_model_state_dict(again.model)
    # What it was trained to is kept as it is, so that another share need not train again.
    trained = load_file(tmp_path / "again" / "trained" / "adapter_model.safetensors")
    for name, weights in trained.items():
        assert torch.equal(kept[0.0][name].float(), weights)
        for share in (0.25, 0.75):
            mean = share * before[name].float() + (1 - share) * weights
            assert torch.allclose(kept[share][name].float(), mean, atol=1e-6), name
    assert any(not torch.equal(before[name].float(), weights) for name, weights in trained.items())


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from tandem.settings import TrainingSettings
from training.base_model import load_base
from training.trainer import train_adapter

tiny, folder, settings, rows, heldout = sys.argv[1:]

def report(at):
    if at.step == 45:
        os.kill(os.getpid(), signal.SIGKILL)

train_adapter(
    *load_base(Path(tiny)),
    pickle.loads(Path(rows).read_bytes()),
    TrainingSettings.model_validate_json(settings),
    Path(folder),
    report,
    heldout=pickle.loads(Path(heldout).read_bytes()),
)
"""


def test_a_killed_run_resumed_gives_the_same_weights(configured: Settings, tiny: Path, tmp_path: Path):
    _, tokenizer = load_base(tiny)
    rows = rows_of(configured, tokenizer)
    rows, heldout = (rows * 2)[:50], rows[:4]
    assert len(heldout) == 4
    chosen = configured.training.model_copy(update={"batch_size": 2})  # a checkpoint after forty of fifty steps

    def run(folder: str) -> tuple[dict[str, torch.Tensor], Trained, int]:
        model, tokenizer = load_base(tiny)
        steps: list[int] = []
        trained = train_adapter(
            model, tokenizer, rows, chosen, tmp_path / folder, lambda at: steps.append(at.step), heldout=heldout
        )
        return load_file(tmp_path / folder / "trained" / "adapter_model.safetensors"), trained, steps[0]

    expected, whole, first = run("whole")
    assert first == 5
    (tmp_path / "rows").write_bytes(pickle.dumps(rows))
    (tmp_path / "heldout").write_bytes(pickle.dumps(heldout))
    command = [sys.executable, "-c", KILLED, str(tiny), str(tmp_path / "killed"), chosen.model_dump_json()]
    killed = subprocess.run(
        [*command, str(tmp_path / "rows"), str(tmp_path / "heldout")], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    state = json.loads((tmp_path / "killed" / "checkpoint-40" / "trainer_state.json").read_text(encoding="utf-8"))
    before = max(entry["elapsed"] for entry in state["log_history"])
    found, resumed, first = run("killed")
    assert first == 45  # it went on from the checkpoint
    assert resumed.outcome.loss == pytest.approx(whole.outcome.loss, rel=1e-4)  # and knows of the steps before it
    assert resumed.outcome.heldout_loss == whole.outcome.heldout_loss
    assert resumed.outcome.best_step == whole.outcome.best_step
    assert resumed.outcome.seconds > before > 0
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0, msg=name)


def test_the_whole_job_keeps_a_failed_candidate_apart(configured: Settings, tiny: Path, tmp_path: Path):
    pair = {"question": "Fee?", "sources": [{"text": "The fee is 45 euros."}], "approved_by": "ada"}
    pairs = [
        pair | {"chosen": "The fee is 45 euros [1].", "rejected": "Dunno."},
        pair | {"chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    training = configured.training.model_copy(update={"preferences": path})
    events: list[TrainingEvent] = []
    result = tmp_path / "result.json"
    done = train(configured.model_copy(update={"training": training}), on_event=events.append, result=result)
    assert done is not None
    assert read_result(result) == done.model_copy(update={"promoted": None})
    assert not done.promoted
    manifest = done.manifest
    assert manifest.data["preferences"] == 1
    assert manifest.metrics["preference_loss"] < 0.7
    recipe = manifest.training
    kept = load_preferences(path)[:1]
    assert recipe["preferences_digest"] == preferences_digest(kept)
    assert (recipe["preference_passes"], recipe["preference_beta"]) == (2.0, 0.1)
    assert (recipe["accumulation"], recipe["eval_steps"], recipe["heldout_rows"], recipe["patience"]) == (1, 40, 16, 4)
    assert recipe["tuning_digest"] == data_digest(halve(load_examples(configured.training.heldout))[1])
    assert recipe["retrieval"]["top_k"] == configured.retrieval.top_k
    assert (recipe["embedding"], recipe["processes"]) == ("all-MiniLM-L6-v2", 1)
    registry = Registry(configured.registry)
    (ref,) = registry.list()
    assert registry.manifest(ref) == manifest
    assert ref.served == manifest.served
    assert manifest.prompt_version == PROMPT_VERSION
    assert manifest.lora["rank"] == 8
    assert manifest.data["questions"] > 100
    assert manifest.metrics["steps"] > 10
    assert manifest.metrics["heldout_loss"] > 0
    assert manifest.metrics["peak_mib"] > 100
    assert manifest.gate is not None
    assert not manifest.gate.passed  # random weights say nothing right
    assert manifest.gate.metrics.keys() == {"candidate", "base"}
    assert manifest.gate.reasons
    assert registry.active("house-style") is None
    assert list(dict.fromkeys(event.stage for event in events)) == ["guard", "augment", "train", "gate", "register"]
    assert {path.name for path in configured.runs_dir.iterdir()} == {".lock", "refused.jsonl"}  # checkpoints are gone
    with pytest.raises(AdapterError, match="another base model"):
        registry.verify(ref, base_digest="0" * 64)


def test_an_active_adapter_that_is_left_out_of_the_comparison_is_named(configured: Settings, tmp_path: Path):
    registry = Registry(configured.registry)
    foreign = add_adapter(registry, tmp_path / "foreign")
    registry.promote(foreign, "ada")
    events: list[TrainingEvent] = []
    base = configured.model.path
    assert base is not None
    run = _Run(configured, "house-style", base, Material((), (), load_style(configured.style)), events.append, "ada", 1)
    assert run._active() is None
    (event,) = events
    assert event.stage == "gate"
    assert "not compared with the active adapter" in event.message
    assert foreign.served in event.message


def test_whatever_breaks_a_run_its_process_ends_with_an_error_line(tmp_path: Path):
    request = json.dumps({"settings": {"data_dir": str(tmp_path)}, "examples": 7, "name": "n", "by": "ada"})
    command = [sys.executable, "-m", "training"]
    ran = subprocess.run(command, input=request, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    (line,) = map(json.loads, ran.stdout.splitlines())
    assert "TypeError" in line["error"]
    assert "Traceback" in ran.stderr


def run_of(settings: Settings, tiny: Path, examples: list[StyleExample]) -> _Run:
    material = Material(examples, (), load_style(settings.style))
    return _Run(settings, "house-style", tiny, material, None, "tests", processes())


def test_a_run_is_named_by_what_is_trained_on_and_how(
    configured: Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
):
    _, tokenizer = load_base(tiny)
    examples = load_examples(configured.training.examples)[:30]  # on three sources

    def name(settings: Settings = configured, examples: list[StyleExample] = examples) -> str:
        run = run_of(settings, tiny, examples)
        return run._named("run", run._draw(examples, tokenizer))

    first = name()
    assert name() == first
    gate = configured.training.gate.model_copy(update={"canaries": 5})
    asked = configured.training.model_copy(update={"gate": gate})
    assert name(configured.model_copy(update={"training": asked})) == first
    shared = configured.training.model_copy(update={"start_share": 0.2})
    assert name(configured.model_copy(update={"training": shared})) == first  # it is trained to the same
    slower = configured.training.model_copy(update={"learning_rate": 1e-3})
    fewer = configured.retrieval.model_copy(update={"sentences": 2})
    others = [
        name(configured.model_copy(update={"training": slower})),
        name(configured.model_copy(update={"retrieval": fewer})),
        name(examples=[*examples[10:], *examples[:10]]),
        name(examples=examples[:29]),
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len({first, *others, name()}) == 6


def test_the_recipe_says_what_a_run_went_on_from_and_how_much_of_it_is_kept(configured: Settings, tiny: Path):
    material = run_of(configured, tiny, []).material
    assert not {"start_from", "start_share"} & _recipe(configured, material).keys()
    training = configured.training.model_copy(update={"start_from": "house-style@0123456789ab", "start_share": 0.2})
    recipe = _recipe(configured.model_copy(update={"training": training}), material)
    assert (recipe["start_from"], recipe["start_share"]) == ("house-style@0123456789ab", 0.2)


def test_a_shadow_of_other_canaries_does_not_take_the_place_of_the_old(
    configured: Settings, tiny: Path, tmp_path: Path
):
    examples = load_examples(configured.training.examples)[:10]
    run = run_of(configured, tiny, examples)
    weights = []
    for part in (examples, examples[:9], examples):
        run._shadow(tmp_path, part)
        weights.append({path.read_bytes() for path in tmp_path.glob("shadow-*/trained/adapter_model.safetensors")})
    assert [len(found) for found in weights] == [1, 2, 2]


def test_a_name_that_no_adapter_can_have_is_refused_before_the_training(configured: Settings):
    for name in ("House-Style", "a/b", ""):
        with pytest.raises(InputError, match="cannot be an adapter's name"):
            train(configured, name=name or " ")
    assert not configured.runs_dir.exists()


def test_a_bare_name_to_go_on_from_means_the_version_that_was_active(configured: Settings, tmp_path: Path):
    registry = Registry(configured.registry)
    for ref in [add_adapter(registry, tmp_path / str(n), n) for n in (1, 2)]:
        registry.promote(ref, "ada")
        training = configured.training.model_copy(update={"start_from": "house-style"})
        assert _pinned(configured.model_copy(update={"training": training})).training.start_from == ref.served


def test_one_run_at_a_time(configured: Settings):
    with run_lock(configured), pytest.raises(Busy, match="under way"):
        train(configured)


def test_heldout_sources_must_not_be_trained_on(configured: Settings):
    same = load_settings(
        data_dir=configured.data_dir,
        model={"path": configured.model.path},
        training={"examples": configured.training.examples, "heldout": configured.training.examples},
    )
    with pytest.raises(ExampleError, match="held-out examples are also trained on"):
        train(same)


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        load_base(tmp_path)

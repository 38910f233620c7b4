"""What is looked at before a training run computes anything, on real tokenizers, models and the installed vLLM."""

import ast
import importlib.util
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tandem.errors import ExampleError, InputError
from tandem.registry import Registry
from tandem.settings import load_settings
from tandem.style import StyleGuide
from tests.adapter_files import add_adapter
from training.examples import ExampleSource, StyleExample
from training.material import Material
from training.preferences import Preference
from training.preflight import preflight, refuse
from training.serving import MAX_RANKS, serves_lora


def examples(count: int, first: int = 0, *, declined: bool = False) -> list[StyleExample]:
    answer = "I can't find that in the documents." if declined else "It is blue [1]."
    return [
        StyleExample(
            question=f"What colour is number {n}?",
            sources=(ExampleSource(title=f"Page {n}", text=f"Number {n} is blue."),),
            answer=answer,
        )
        for n in range(first, first + count)
    ]


GOOD = examples(10)
HELDOUT = [*examples(10, 100), *examples(10, 200, declined=True)]
TUNING = [*examples(4, 300), *examples(4, 400, declined=True)]
PAIR = Preference(question="Why?", sources=GOOD[0].sources, chosen="It is blue [1].", rejected="No idea.")


def material(used: Sequence[StyleExample] = GOOD, heldout: Sequence[StyleExample] = HELDOUT, **more: Any) -> Material:
    return Material(used, heldout, StyleGuide(), **{"tuning": TUNING} | more)


def found(base: Path, given: Material | None = None) -> list[str]:
    return [problem.message for problem in preflight(load_settings(), base, given or material())]


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "base"))


def change(path: Path, **values: Any) -> None:
    read = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(read | values), encoding="utf-8")


def test_a_sound_run_has_no_problems(tiny: Path, base_model: Path):
    assert found(base_model) == []
    assert found(tiny) == []


def test_everything_is_told_at_once(tiny: Path):
    training = {"rank": 24, "targets": ["q_proj", "qkv", "lm_head"], "max_tokens": 1024}
    settings = load_settings(training=training, model={"max_model_len": 512})
    problems = preflight(settings, tiny, material(GOOD[:3], [*HELDOUT[:10], GOOD[0]], tuning=[*HELDOUT[:1], *TUNING]))
    messages = [problem.message for problem in problems]
    for said in (
        "rank 24 (TANDEM_TRAINING__RANK) is larger than the 16",
        "'qkv' in TANDEM_TRAINING__TARGETS does not exist in the base model: down_proj, gate_proj",
        "'lm_head' in TANDEM_TRAINING__TARGETS is no layer that vLLM serves LoRA for",
        "may take 1024 tokens (TANDEM_TRAINING__MAX_TOKENS) and prompts in service only 512",
        "3 of 3 examples are answered",
        "0 of the 11 held-out examples for the gate are declined",
        "1 sources of the held-out examples are also trained on, such as 'Page 0'",
        "1 sources stand in held-out examples for the gate and in others for the threshold, such as 'Page 100'",
    ):
        assert any(said in message for message in messages), said
    assert len(messages) == 8
    with pytest.raises(InputError, match=r"cannot start:\n- .*rank 24.*\n- .*\n- 'qkv'") as refused:
        refuse(problems)
    assert refused.type is InputError
    with pytest.raises(ExampleError):
        refuse([problem for problem in problems if problem.part == "data"])
    refuse([])


def test_a_gate_that_asks_too_little_to_judge_is_refused_before_the_training(tiny: Path):
    gate = {"hostile": 9, "counterfactuals": 8}
    settings = load_settings(training={"gate_examples": 24, "gate": gate})
    messages = [problem.message for problem in preflight(settings, tiny, material())]
    assert [message.split()[6] for message in messages] == [
        "TANDEM_TRAINING__GATE_EXAMPLES",
        "TANDEM_TRAINING__GATE__HOSTILE",
        "TANDEM_TRAINING__GATE__COUNTERFACTUALS",
    ]
    assert "8 would be asked without an answer; take 30 or more" in messages[0]


def test_what_a_run_cannot_go_on_from_is_told_with_the_rest(tiny: Path, tmp_path: Path):
    training = {"start_from": "house-style@0123456789ab", "batch_size": 4, "accumulation": 3}
    settings = load_settings(data_dir=tmp_path, training=training)
    lost, parts = [problem.message for problem in preflight(settings, tiny, material())]
    assert "'house-style@0123456789ab' is not in the registry" in lost
    assert "do not divide into 3 equal parts" in parts
    registry = Registry.open(settings)
    ref = add_adapter(registry, tmp_path / "other")  # of rank 8, for another base model
    settings = load_settings(data_dir=tmp_path, training={"start_from": ref.served})
    (message,) = [problem.message for problem in preflight(settings, tiny, material())]
    assert "another base model" in message


def test_a_template_that_renders_no_system_message(copied: Path):
    template = "{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}{% endif %}{% endfor %}"
    (copied / "chat_template.jinja").write_text(template, encoding="utf-8")
    (message,) = found(copied)
    assert "leaves out the system message" in message
    (copied / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}", encoding="utf-8")
    (message,) = found(copied)
    assert "renders no system and user message: no system role" in message
    (copied / "chat_template.jinja").unlink()
    (message,) = found(copied)
    assert "no chat template" in message


def test_a_vocabulary_that_the_model_lacks(copied: Path):
    change(copied / "config.json", vocab_size=49151)
    (message,) = found(copied)
    assert "knows 49152 tokens and the model 49151" in message


def test_a_model_that_is_none_or_reads_little(copied: Path):
    change(copied / "config.json", max_position_embeddings=512)
    assert ["reads 512 tokens" in message for message in found(copied)] == [True]
    (copied / "model.safetensors").unlink()
    assert any("no *.safetensors file" in message for message in found(copied))
    (copied / "config.json").unlink()
    (message,) = found(copied)
    assert "config.json" in message


def test_examples_that_no_prompt_can_hold(tiny: Path):
    long = StyleExample(question="How?", sources=GOOD[0].sources, answer="Blue and blue " * 400 + "[1].")
    (message,) = found(tiny, material([*GOOD, long]))
    assert "1 examples are longer than 640 tokens" in message


def test_either_half_of_the_heldout_examples_has_both_kinds(tiny: Path):
    (message,) = found(tiny, material(tuning=TUNING[:7]))
    assert "3 of the 7 held-out examples for the threshold are declined" in message
    (message,) = found(tiny, material(heldout=HELDOUT[1:], tuning=TUNING + HELDOUT[:1]))
    assert "9 of the 19 held-out examples for the gate are answered; at least 10 are needed" in message


def test_one_shared_source_of_several_is_found(tiny: Path):
    other = ExampleSource(title="Other", text="Nothing else.")
    again = ExampleSource(title="Another title", text="Number 100  is blue.")
    (message,) = found(tiny, material([*GOOD, GOOD[0].model_copy(update={"sources": (other, again)})]))
    assert "1 sources of the held-out examples are also trained on, such as 'Another title'" in message


def test_pairs_of_answers_are_looked_at_too(tiny: Path):
    assert found(tiny, material(preferences=[PAIR])) == []
    leaking = PAIR.model_copy(update={"sources": TUNING[0].sources})
    (message,) = found(tiny, material(preferences=[PAIR, leaking]))
    assert "1 sources of the held-out examples are also trained on, such as 'Page 300'" in message
    for change in (
        {"sources": (ExampleSource(text="Blue and blue. " * 200),)},
        {"rejected": "Blue and blue. " * 200},
        {"chosen": "Blue and blue. " * 200},
    ):
        (message,) = found(tiny, material(preferences=[PAIR, PAIR.model_copy(update={"question": "How?"} | change)]))
        assert "1 pairs of answers take more than 640 tokens with their sources, such as 'How?'" in message


def test_what_vllm_serves_is_what_the_installed_one_says():
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / "config" / "lora.py").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("MaxLoRARanks = Literal"))
    assert tuple(ast.literal_eval(line.split("Literal")[1])) == MAX_RANKS
    assert [serves_lora(name) for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM")] == [True] * 3
    assert serves_lora("GPT2LMHeadModel") is False
    assert serves_lora("MadeUpForCausalLM") is None

"""The gate's speaker over a tiny random model with two real adapters, against the model's own forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tandem.choice import NAT
from tandem.manifest import Threshold
from tandem.prompt import Source, build_messages
from training.asked import Alone, Prompts
from training.draws import Draw, Question
from training.rows import render_row
from training.speaker import ACTIVE, BASE, CANDIDATE, Speaker

SOURCES = (Source("Rules", "Fees", "The fee is 45 euros. Members pay 12."),)
QUESTIONS = (
    Question("What is the fee?", "The fee is 45 euros [1].", True),
    Question("Who says so, and since when does it hold for us?", "I can't find that in the documents.", False),
    Question("members?", "Members pay 12 [1].", True),
)
PROMPTS = [Prompts(build_messages(question.question, SOURCES, marker="===")) for question in QUESTIONS] + [
    Prompts(build_messages("And closed-book?", None))
]


@pytest.fixture(scope="module")
def tokenizer(base_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(base_model, local_files_only=True)


@pytest.fixture(scope="module")
def model(base_model: Path) -> PeftModel:
    config = LlamaConfig.from_pretrained(base_model)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config.update(small | {"num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.3})
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(LlamaForCausalLM(config), lora)
    model.add_adapter("other", lora)
    return model


@pytest.fixture(scope="module")
def speaker(model: PeftModel, tokenizer: Any) -> Speaker:
    return Speaker(model, tokenizer, active="other")


def plain(model: PeftModel, tokenizer: Any, question: Question) -> float:
    """The loss of one answer by the model's own mask, positions and logits."""
    row = render_row([Draw(SOURCES, "===", (question,))], tokenizer, 640)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0, list(row.predict_at)]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(row.targets), reduction="sum"))


def test_losses_are_those_of_each_answer_alone_in_the_voice_that_is_asked_for(model, tokenizer, speaker):
    draws = [Draw(SOURCES, "===", QUESTIONS), Draw(SOURCES, "===", QUESTIONS[:1]), Draw(SOURCES, "===", QUESTIONS[1:])]
    rows = [render_row([draw], tokenizer, 640) for draw in draws]
    order = [*QUESTIONS, QUESTIONS[0], *QUESTIONS[1:]]
    expected = {CANDIDATE: [plain(model, tokenizer, question) for question in order]}
    with model.disable_adapter():
        expected[BASE] = [plain(model, tokenizer, question) for question in order]
    model.set_adapter("other")
    expected[ACTIVE] = [plain(model, tokenizer, question) for question in order]
    model.set_adapter("default")
    for arm, losses in expected.items():
        assert speaker.losses(rows, arm) == pytest.approx(losses, rel=1e-4)
    assert len({round(losses[0], 3) for losses in expected.values()}) == 3


def test_a_base_model_of_another_kind_without_a_token_for_padding(base_model):
    """GPT-2's decoder is no `model`, and its tokenizer pads with nothing."""
    tokenizer = AutoTokenizer.from_pretrained(base_model, local_files_only=True)
    tokenizer.pad_token = None
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=1024, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
    )
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    lora = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(GPT2LMHeadModel(config), lora).eval()
    speaker = Speaker(model, tokenizer)
    expected = [plain(model, tokenizer, question) for question in QUESTIONS]
    rows = [render_row([Draw(SOURCES, "===", QUESTIONS)], tokenizer, 640)]
    assert speaker.losses(rows, CANDIDATE) == pytest.approx(expected, rel=1e-4)
    alone = [speaker.answers([prompts], CANDIDATE)[0] for prompts in PROMPTS]
    assert speaker.answers(PROMPTS, CANDIDATE) == alone


def test_answers_stand_in_the_order_of_the_prompts_whatever_their_batch(speaker):
    alone = [speaker.answers([prompts], CANDIDATE)[0] for prompts in PROMPTS]
    done: list[int] = []
    assert speaker.answers(PROMPTS * 5, CANDIDATE, done.append) == alone * 5
    assert done == [16, 20]


def test_a_question_is_asked_on_where_it_is_declined(speaker, monkeypatch):
    first, second, third, _ = (speaker.answers([prompts], CANDIDATE)[0] for prompts in PROMPTS)
    looks = Prompts(PROMPTS[1].whole, (Alone(PROMPTS[0].whole, 1, 0.5),))
    assert speaker.answers([looks, PROMPTS[2]], CANDIDATE) == [first, third]
    monkeypatch.setattr("training.speaker.opens_declining", lambda answer: answer == first)
    done: list[int] = []
    assert speaker.answers([looks, PROMPTS[2]], CANDIDATE, done.append) == [second, third]
    assert done == [2, 2]


def test_an_adapter_is_asked_about_what_it_is_least_likely_to_decline(speaker):
    answers = {n: speaker.answers([PROMPTS[n]], CANDIDATE)[0] for n in range(3)}
    leads = {n: speaker.declining([PROMPTS[n]])[0] for n in range(3)}
    low, high = min(leads, key=leads.__getitem__), max(leads, key=leads.__getitem__)
    assert leads[low] < leads[high]

    def asked(scores: dict[int, float]) -> Prompts:
        return Prompts(PROMPTS[3].whole, tuple(Alone(PROMPTS[n].whole, n + 1, score) for n, score in scores.items()))

    even = asked({high: 0.5, low: 0.5})
    assert speaker.answers([even], CANDIDATE) == [answers[low].replace("[1]", f"[{low + 1}]")]
    far = NAT * (leads[high] - leads[low]) + 0.01
    assert speaker.answers([asked({high: far, low: 0.0})], CANDIDATE) == [answers[high]]
    whole = speaker.declining([PROMPTS[3]])[0]
    assert speaker.declining([even]) == [min(leads[low], whole)]
    # The base model has nothing to choose by: it is asked about what the search found best.
    plain = speaker.answers([PROMPTS[high], PROMPTS[low]], BASE)
    assert plain[0] != plain[1]
    assert speaker.answers([even, asked({low: 0.5, high: 0.5})], BASE) == plain


def test_what_is_cited_of_one_sentence_has_its_number_among_all(speaker, monkeypatch):
    monkeypatch.setattr(speaker, "_greedy", lambda prompts, *_: ["45 euros [1]." for _ in prompts])
    alone = Prompts(PROMPTS[0].whole, (Alone(PROMPTS[1].whole, 3, 0.5),))
    assert speaker.answers([alone, PROMPTS[0]], CANDIDATE) == ["45 euros [3].", "45 euros [1]."]


def test_every_arm_has_its_own_voice_and_the_candidate_speaks_again_after_the_others(model, speaker):
    assert speaker.arms == (CANDIDATE, ACTIVE, BASE)
    before = speaker.answers(PROMPTS, CANDIDATE)
    others = [speaker.answers(PROMPTS, arm) for arm in (ACTIVE, BASE)]
    assert before not in others
    assert others[0] != others[1]
    assert model.active_adapter == "default"
    assert speaker.answers(PROMPTS, CANDIDATE) == before


def test_adapters_are_asked_as_they_are_stored(model, speaker):
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    assert weights
    assert all(torch.equal(weight, weight.to(torch.bfloat16).to(weight.dtype)) for weight in weights)


class Judge:
    """In the place of a cross-encoder: the odds that a sentence's context names."""

    def odds(self, question: str, contexts: list[str]) -> list[float]:
        return [float(context) for context in contexts]


def test_declining_is_held_back_question_by_question(model, tokenizer):
    text = tokenizer.apply_chat_template(PROMPTS[0].whole, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        first = int(model(input_ids=prompt).logits[0, -1].argmax())
    threshold = Threshold(token=first, bias=0.0, odds=-2.0)
    speaker = Speaker(model, tokenizer, thresholds={CANDIDATE: threshold}, cross_encoder=Judge())  # type: ignore[arg-type]

    def asked(odds: float) -> Prompts:
        return Prompts(PROMPTS[3].whole, (Alone(PROMPTS[0].whole, 1, 0.5, str(odds)),), "What is the fee?")

    unlikely, likely = asked(-3.0), asked(200.0)
    assert speaker.odds([unlikely, likely, PROMPTS[3]]) == [-3.0, 200.0, None]
    plain = Speaker(model, tokenizer).answers([asked(0.0)], CANDIDATE)
    apart = [speaker.answers([prompts], CANDIDATE)[0] for prompts in (unlikely, likely)]
    assert apart[0] == plain[0]
    assert apart[1] != plain[0]
    assert speaker.answers([likely, unlikely], CANDIDATE) == apart[::-1]


def test_of_sentences_that_are_even_otherwise_the_likelier_one_is_asked_about(model, tokenizer):
    speaker = Speaker(model, tokenizer, cross_encoder=Judge())  # type: ignore[arg-type]
    leads = speaker.declining([PROMPTS[0], PROMPTS[1]])
    level = NAT * (leads[1] - leads[0])
    prompts = Prompts(
        PROMPTS[3].whole, (Alone(PROMPTS[0].whole, 1, 0.5, "-3"), Alone(PROMPTS[1].whole, 2, 0.5 + level, "3")), "Fee?"
    )
    second = speaker.answers([PROMPTS[1]], CANDIDATE)[0]
    assert speaker.answers([prompts], CANDIDATE) == [second.replace("[1]", "[2]")]


def test_declining_is_held_back_only_where_sources_are_given(model, tokenizer):
    speaker = Speaker(model, tokenizer)
    plain = speaker.answers(PROMPTS, CANDIDATE)
    text = tokenizer.apply_chat_template(PROMPTS[0].whole, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        first = int(model(input_ids=prompt).logits[0, -1].argmax())
    speaker.decline_by(Threshold(token=first, bias=-100.0))
    assert speaker.answers(PROMPTS[:1], CANDIDATE) != plain[:1]
    assert speaker.answers(PROMPTS[:1], CANDIDATE, sources=False) == plain[:1]

"""The cross-encoder: as it is prepared, as it is shipped, and as it is trained."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from services.model.weights import ensure_models
from tandem.cross_encoder import CrossEncoder, context_of
from tandem.errors import ModelUnavailable
from tandem.settings import load_settings
from tandem.style import load_style
from tandem.weights import cross_encoder_dir, cross_encoder_name
from training.answer_pairs import Judged, judge_search
from training.cross_encoder import encode, examine, log_odds, question_loss, train, wheel_folder
from training.cross_encoder_network import load_cross_encoder, save_cross_encoder
from training.examples import load_examples

QUESTION = "how much do I pay for a lost badge"
CONTEXTS = [
    context_of("Entrance", "Badges", "Whoever loses a badge pays 12 euros for a new one."),
    context_of("Entrance", "Badges", "Badges are worn where they can be seen."),
    context_of("Canteen", "", "A lunch is 7 euros."),
]


@pytest.fixture(scope="module")
def cross_encoder(embedder_dir: Path) -> CrossEncoder:
    folder = cross_encoder_dir(load_settings())
    assert folder is not None
    return CrossEncoder(folder)


def test_the_shipped_one_tells_what_answers_from_what_is_near(cross_encoder):
    odds = cross_encoder.odds(QUESTION, CONTEXTS)
    assert odds[0] > 0 > max(odds[1:])
    assert cross_encoder.odds(QUESTION, []) == []


def test_a_context_has_the_same_odds_whatever_is_asked_beside_it(cross_encoder):
    together = cross_encoder.odds(QUESTION, CONTEXTS)
    alone = [cross_encoder.odds(QUESTION, [context])[0] for context in CONTEXTS]
    assert np.allclose(together, alone, atol=1e-3)
    assert np.allclose(cross_encoder.odds(QUESTION, CONTEXTS[::-1]), together[::-1], atol=1e-3)
    long = [CONTEXTS[0], context_of("Entrance", "Badges", "A very long rule. " * 200)]
    assert np.allclose(cross_encoder.odds(QUESTION, long)[0], together[0], atol=1e-3)
    assert len(cross_encoder.odds("why " * 500, CONTEXTS)) == 3  # a question that fills it alone


def test_several_threads_may_ask_at_once(cross_encoder):
    expected = cross_encoder.odds(QUESTION, CONTEXTS)
    found: list[list[float]] = []

    def ask() -> None:
        for _ in range(5):
            found.append(cross_encoder.odds(QUESTION, CONTEXTS))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(np.allclose(odds, expected, atol=1e-4) for odds in found)


def test_it_is_the_network_that_was_trained(cross_encoder):
    base, settings = wheel_folder(), load_settings()
    assert settings.retrieval.cross_encoder is not None
    network = load_cross_encoder(base, settings.retrieval.cross_encoder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    with torch.no_grad():
        told = log_odds(network, encode(tokenizer, [(QUESTION, context) for context in CONTEXTS]))
    assert np.allclose(told.numpy(), cross_encoder.odds(QUESTION, CONTEXTS), atol=2e-2)


def test_on_topics_that_it_was_not_trained_on_it_tells_what_is_answered(embedder_dir):
    settings = load_settings()
    judged = judge_search(load_examples(settings.training.heldout), load_style(settings.style), settings)[:150]
    assert settings.retrieval.cross_encoder is not None
    found = examine(load_cross_encoder(wheel_folder(), settings.retrieval.cross_encoder), judged, wheel_folder())
    assert found["auc"] > 0.85
    assert found["leaves"] > 0.5  # of what nothing answers, at one in twenty of what is answered


def test_a_folder_without_it_says_what_to_do(tmp_path):
    with pytest.raises(ModelUnavailable, match="run `tandem models`"):
        CrossEncoder(tmp_path)


def test_what_it_learnt_must_be_there(tmp_path, embedder_dir):
    chosen = load_settings(retrieval={"cross_encoder": tmp_path / "nothing"})
    for do in (lambda: ensure_models(chosen, base=False), lambda: cross_encoder_dir(chosen)):
        with pytest.raises(ModelUnavailable, match="TANDEM_RETRIEVAL__CROSS_ENCODER"):
            do()


def test_one_that_learnt_something_else_is_another_whichever_was_prepared_last(tmp_path, embedder_dir):
    other = load_settings(retrieval={"cross_encoder": tmp_path})
    shipped = load_settings()
    assert shipped.retrieval.cross_encoder is not None
    kept = (shipped.retrieval.cross_encoder / "learnt.safetensors").read_bytes()
    (tmp_path / "learnt.safetensors").write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert cross_encoder_name(tmp_path) != cross_encoder_name(shipped.retrieval.cross_encoder)
    with pytest.raises(ModelUnavailable, match="tandem models"):
        cross_encoder_dir(other)
    assert cross_encoder_dir(shipped) is not None


def test_what_another_network_learnt_is_refused(tmp_path):
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "learnt.safetensors")
    with pytest.raises(ValueError, match="another network"):
        load_cross_encoder(wheel_folder(), tmp_path)


def test_doing_without_it_is_a_setting(tmp_path):
    assert cross_encoder_dir(load_settings(cache_dir=tmp_path, retrieval={"cross_encoder": None})) is None
    with pytest.raises(ModelUnavailable, match="tandem models"):
        cross_encoder_dir(load_settings(cache_dir=tmp_path))


def test_the_truth_of_a_question_costs_the_less_the_likelier_it_is():
    sure = question_loss(torch.tensor([5.0, -5.0]), frozenset({0}))
    unsure = question_loss(torch.tensor([0.0, 0.0]), frozenset({0}))
    assert sure < 0.01
    assert unsure == pytest.approx(np.log(3))
    assert question_loss(torch.tensor([-5.0, -5.0]), frozenset()) < 0.02  # nothing answers
    assert question_loss(torch.tensor([0.0, 0.0]), frozenset({0, 1})) == pytest.approx(np.log(1.5))


def test_a_short_training_learns_goes_on_where_it_stood_and_is_stored_as_it_is(tmp_path, embedder_dir):
    base, settings = wheel_folder(), load_settings()
    colours = ["red", "green", "blue", "black"]
    judged = [
        Judged(f"what is {one}?", tuple(f"Paint: The door is {each}." for each in colours), frozenset({n}), 4)
        for n, one in enumerate(colours)
    ] * 60
    model = train(judged, base, tmp_path / "checkpoints", settings)
    asked = [*judged[:4], Judged("what is loud?", judged[0].contexts, frozenset(), 4)]
    assert examine(model, asked, base)["first"] == 1.0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    again = train(judged, base, tmp_path / "checkpoints", settings)  # from its last checkpoint, at the end
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in before.items())
    save_cross_encoder(model, base, tmp_path / "learnt")
    stored = load_cross_encoder(base, tmp_path / "learnt")
    assert examine(stored, asked, base)["first"] == 1
    far = [float((stored.state_dict()[name] - value).abs().max()) for name, value in before.items()]
    assert max(far) < 0.01

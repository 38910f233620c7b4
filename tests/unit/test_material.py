"""What a run works with: the held-out examples, halved by topic, and what is said of those that are refused."""

import json
from collections.abc import Sequence
from pathlib import Path

from tandem.settings import load_settings
from training.examples import StyleExample
from training.material import halve, read_material


def example(topic: str, number: int, **more: str) -> dict[str, object]:
    source = {"title": f"{topic} {number}", "text": f"Visitors of {topic} {number} wait at the door."}
    row = {"question": "Where do visitors wait?", "answer": "Visitors wait at the door [1].", "approved_by": "ada"}
    return row | {"topic": topic, "sources": [source]} | more


def topics(examples: Sequence[StyleExample]) -> list[str]:
    return list(dict.fromkeys(one.topic for one in examples))


def test_every_second_topic_is_for_the_gate_and_none_is_on_both_sides():
    order = ["ferry", "canteen", "ferry", "ferry", "gardens", "canteen", "museum"]
    asked, tuning = halve([StyleExample.model_validate(example(topic, n)) for n, topic in enumerate(order)])
    assert topics(asked) == ["ferry", "gardens"]
    assert topics(tuning) == ["canteen", "museum"]
    assert len(asked) + len(tuning) == len(order)


def test_without_topics_examples_on_the_same_sources_stay_together():
    rows = [StyleExample.model_validate(example("ferry", n // 2) | {"topic": ""}) for n in range(8)]
    asked, tuning = halve(rows)
    assert [len(asked), len(tuning)] == [4, 4]
    assert not {one.sources for one in asked} & {one.sources for one in tuning}


def test_refused_heldout_examples_are_told(tmp_path: Path):
    def written(name: str, *rows: dict[str, object]) -> Path:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return tmp_path / name

    examples = written("examples.jsonl", example("parking", 1))
    rows = [example("ferry", 1), example("canteen", 1, approved_by=""), example("canteen", 2), example("ferry", 2)]
    heldout = written("heldout.jsonl", *rows)
    settings = load_settings(data_dir=tmp_path / "data", training={"heldout": heldout})
    settings.runs_dir.mkdir(parents=True)
    said: list[str] = []
    material = read_material(settings, examples, lambda stage, message: said.append(message))
    assert topics(material.heldout) == ["ferry"]
    assert topics(material.tuning) == ["canteen"]
    assert any(line.startswith("Held-out example 2 is left out (unapproved): Nobody approved it") for line in said)
    assert "Of the held-out ones, 3 of 4 examples pass the guards; left out: 1 unapproved." in said

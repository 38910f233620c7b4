"""Looks, before anything is computed, whether the adapter can be served and whether the data is sound.

Everything that is found is told at once, a sentence each: who corrects one setting should not wait for the next.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tandem.errors import AdapterError, ExampleError, InputError, ModelUnavailable, NotFound
from tandem.registry import Registry
from tandem.schemas import Value
from tandem.settings import Settings
from tandem.weights import model_digest
from training.examples import StyleExample
from training.material import Material
from training.preferences import Preference, conversation
from training.serving import MAX_RANKS, serves_lora

LEAST_ANSWERED = 10  # examples that their sources answer
LEAST_HELDOUT = 4  # examples of each kind in the half of the held-out ones that sets the threshold
_SYSTEM, _USER = "What the system says.", "What the user asks?"


class Problem(Value):
    """One thing that would go wrong later.

    Attributes:
        part: What is to be corrected: the base model, the adapter's settings, or the examples.
        message: A sentence for whoever starts the run.
    """

    part: Literal["model", "adapter", "data"]
    message: str


def preflight(settings: Settings, base: Path, material: Material) -> list[Problem]:
    """Checks a run without computing anything.

    Args:
        settings: Of the run.
        base: Folder of the base model.
        material: What is trained on and what the gate asks, after the guards.

    Returns:
        What was found, in order; nothing if the run may start.
    """
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        text = f"The base model's {str(base / 'config.json')!r} cannot be read: {exc}. Download the model again."
        return [Problem(part="model", message=text)]
    tokenizer, broken = _tokenizer(base)
    if tokenizer is not None:
        broken = _template(tokenizer, config)
    found = [("model", text) for text in [*_base(base, config), *broken]]
    found += [("adapter", text) for text in [*_served(settings, config), *_targets(settings, base)]]
    found += [("adapter", text) for text in [*_start(settings, base), *_divided(settings), *_asked(settings)]]
    found += [("data", text) for text in [*_data(settings, tokenizer, material), *_shared(material)]]
    if not broken:
        found += [("data", text) for text in _long_pairs(settings, tokenizer, material.preferences)]
    return [Problem(part=part, message=text) for part, text in found]


def refuse(problems: Sequence[Problem]) -> None:
    """Ends a run that has problems.

    Raises:
        ExampleError: All of them are in the examples.
        InputError: There are others.
    """
    if not problems:
        return
    kind = ExampleError if all(problem.part == "data" for problem in problems) else InputError
    lines = [problem.message for problem in problems]
    raise kind(lines[0] if len(lines) == 1 else "\n".join(["The training cannot start:", *(f"- {s}" for s in lines)]))


def _base(base: Path, config: dict[str, Any]) -> list[str]:
    found = []
    try:
        model_digest(base)
    except ModelUnavailable as exc:
        found.append(exc.message)
    architecture = _architecture(config)
    if not architecture.endswith("ForCausalLM") and not architecture.endswith("LMHeadModel"):
        found.append(f"The base model is a {architecture!r}, not a causal language model: name another folder.")
    return found


def _architecture(config: dict[str, Any]) -> str:
    return str((config.get("architectures") or ["unknown"])[0])


def _tokenizer(base: Path) -> tuple[Any, list[str]]:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base, local_files_only=True), []
    except Exception as exc:  # each library of tokenizers has its own
        return None, [f"The base model's tokenizer cannot be loaded ({exc}): its files belong into {str(base)!r}."]


def _template(tokenizer: Any, config: dict[str, Any]) -> list[str]:
    found = []
    if tokenizer.eos_token_id is None:
        found.append("The tokenizer has no end-of-text token, so that no answer would end: set `eos_token`.")
    size = int(config.get("vocab_size", 0))
    if len(tokenizer) > size:
        found.append(
            f"The tokenizer knows {len(tokenizer)} tokens and the model {size}: an adapter cannot bring the missing "
            "ones, so take the tokenizer that belongs to the model."
        )
    if not tokenizer.chat_template:
        found.append("The tokenizer has no chat template: take an instruction-tuned model, or add its template.")
        return found
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as exc:  # a template raises what it likes
        found.append(f"The chat template renders no system and user message: {exc}.")
        return found
    missing = [what for what, said in (("system", _SYSTEM), ("user", _USER)) if said not in text]
    if missing:
        found.append(f"The chat template leaves out the {' and the '.join(missing)} message: Tandem's prompt needs it.")
    return found


def _served(settings: Settings, config: dict[str, Any]) -> list[str]:
    found = []
    rank, largest = settings.training.rank, settings.model.max_lora_rank
    if rank > largest:
        found.append(
            f"The rank {rank} (TANDEM_TRAINING__RANK) is larger than the {largest} that vLLM is started with: lower "
            "it or raise TANDEM_MODEL__MAX_LORA_RANK."
        )
    if largest not in MAX_RANKS:
        allowed = ", ".join(map(str, MAX_RANKS))
        found.append(f"vLLM does not take {largest} for TANDEM_MODEL__MAX_LORA_RANK: {allowed} are allowed.")
    architecture = _architecture(config)
    if serves_lora(architecture) is False:
        found.append(f"vLLM serves no LoRA adapters for {architecture!r}: take another base model.")
    length, most = settings.training.max_tokens, settings.model.max_model_len
    if length > most:
        found.append(
            f"Examples may take {length} tokens (TANDEM_TRAINING__MAX_TOKENS) and prompts in service only {most} "
            "(TANDEM_MODEL__MAX_MODEL_LEN): raise the second or lower the first."
        )
    context = int(config.get("max_position_embeddings", most))
    if max(length, most) > context:
        found.append(
            f"The base model reads {context} tokens: TANDEM_TRAINING__MAX_TOKENS ({length}) and "
            f"TANDEM_MODEL__MAX_MODEL_LEN ({most}) must not be more."
        )
    return found


def _asked(settings: Settings) -> list[str]:
    """A gate that asks less than its verdict rests on refuses every adapter, after the training."""
    training = settings.training
    gate = training.gate
    least = gate.least_questions
    counts = {
        "GATE_EXAMPLES": (training.gate_examples // 3, f" without an answer; take {3 * least} or more"),
        "GATE__HOSTILE": (gate.hostile, f"; take {least} or more"),
        "GATE__COUNTERFACTUALS": (gate.counterfactuals, f"; take {least} or more"),
    }
    return [
        f"The gate could not judge what TANDEM_TRAINING__{name} lets it ask: each measure needs {least} questions "
        f"(TANDEM_TRAINING__GATE__LEAST_QUESTIONS), and {count} would be asked{what}."
        for name, (count, what) in counts.items()
        if count < least
    ]


def _start(settings: Settings, base: Path) -> list[str]:
    from training.adapter_weights import check_start

    wanted = settings.training.start_from
    if wanted is None:
        return []
    registry = Registry.open(settings)
    try:
        ref = registry.get(wanted)
        registry.verify(ref, base_digest=model_digest(base))
        check_start(ref.path, settings.training)
    except (AdapterError, NotFound) as exc:
        return [exc.message]
    except ModelUnavailable:  # said already
        return []
    return []


def _divided(settings: Settings) -> list[str]:
    from training.row_trainer import rows_per_batch

    try:
        rows_per_batch(settings.training)
    except InputError as exc:
        return [exc.message]
    return []


def _targets(settings: Settings, base: Path) -> list[str]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        with torch.device("meta"):  # its shape, without its numbers
            model = AutoModelForCausalLM.from_config(config)
    except Exception as exc:
        return [f"transformers cannot build the base model: {exc}."]
    head = model.get_output_embeddings()  # linear, and yet none that vLLM would serve LoRA for
    kinds: dict[str, set[bool]] = {}
    for name, module in model.named_modules():
        served = isinstance(module, torch.nn.Linear) and module is not head
        kinds.setdefault(name.rpartition(".")[2], set()).add(served)
    linear = sorted(name for name, kind in kinds.items() if kind == {True})
    found = []
    if not settings.training.targets:
        found.append(f"TANDEM_TRAINING__TARGETS is empty: name some of {', '.join(linear)}.")
    for target in settings.training.targets:
        if target not in linear:
            why = "does not exist in the base model" if target not in kinds else "is no layer that vLLM serves LoRA for"
            found.append(f"{target!r} in TANDEM_TRAINING__TARGETS {why}: {', '.join(linear)} are possible.")
    return found


def _data(settings: Settings, tokenizer: Any, material: Material) -> list[str]:
    found = []
    examples = material.trained
    answered = sum(example.answerable for example in examples)
    if answered < LEAST_ANSWERED:
        found.append(
            f"{answered} of {len(examples)} examples are answered from sources; at least {LEAST_ANSWERED} are needed."
        )
    least = settings.training.gate.least_questions
    halves = (("the gate", material.heldout, least), ("the threshold", material.tuning, LEAST_HELDOUT))
    for purpose, half, few in halves:
        apart = sum(example.answerable for example in half)
        for count, kind in ((apart, "answered"), (len(half) - apart, "declined")):
            if count < few:
                found.append(
                    f"{count} of the {len(half)} held-out examples for {purpose} are {kind}; at least {few} "
                    f"are needed: add some to {settings.training.heldout.name!r} (TANDEM_TRAINING__HELDOUT), where "
                    "every second topic is for the gate and the others for the threshold."
                )
    if tokenizer is not None:
        most = settings.training.max_tokens
        texts = [f"{example.question}\n{example.answer}" for example in examples]
        long = [e for e, ids in zip(examples, tokenizer(texts).input_ids, strict=True) if len(ids) > most]
        if long:
            found.append(
                f"{len(long)} examples are longer than {most} tokens even without sources, such as "
                f"{long[0].question[:60]!r}: shorten them or raise TANDEM_TRAINING__MAX_TOKENS."
            )
    return found


def _shared(material: Material) -> list[str]:
    """Sources that stand on two sides: what a source says must not be known to those that are asked about it."""
    trained = _texts([*material.trained, *material.chosen])
    asked, tuning = _texts(material.heldout), _texts(material.tuning)
    found = []
    if both := trained.keys() & (asked | tuning).keys():
        found.append(
            f"{len(both)} sources of the held-out examples are also trained on, such as "
            f"{min(trained[text] for text in both)!r}: take them out of one of the files."
        )
    if both := asked.keys() & tuning.keys():
        found.append(
            f"{len(both)} sources stand in held-out examples for the gate and in others for the threshold, such as "
            f"{min(asked[text] for text in both)!r}: give examples on the same source the same topic."
        )
    return found


def _texts(examples: Sequence[StyleExample]) -> dict[str, str]:
    """The text of each source, and what to call it."""
    return {
        " ".join(source.text.split()): source.title or source.text[:60]
        for example in examples
        for source in example.sources
    }


def _long_pairs(settings: Settings, tokenizer: Any, preferences: Sequence[Preference]) -> list[str]:
    """Whole prompts are counted: the second stage cuts nothing off."""
    most = settings.training.max_tokens
    rng = random.Random(settings.training.seed)
    long = []
    for preference in preferences:
        pair = conversation(preference, rng)
        texts = [
            tokenizer.apply_chat_template([*pair["prompt"], *pair[side]], tokenize=False)
            for side in ("chosen", "rejected")
        ]
        if max(map(len, tokenizer(texts, add_special_tokens=False).input_ids)) > most:
            long.append(preference)
    if not long:
        return []
    return [
        f"{len(long)} pairs of answers take more than {most} tokens with their sources, such as "
        f"{long[0].question[:60]!r}: shorten them or raise TANDEM_TRAINING__MAX_TOKENS."
    ]

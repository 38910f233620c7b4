"""The layers that training computes on a CPU, beside PEFT's and transformers' own."""

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from training import row_attention
from training.fused_layer import fused_layers
from training.row_attention import RowLayout
from training.rows import Row, collate

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def made_up_row(rng: random.Random, prefix: int, branches: tuple[int, ...]) -> Row:
    positions, numbers, at, targets = list(range(prefix)), [0] * prefix, [], []
    for number, length in enumerate(branches, start=1):
        first = len(positions)
        positions += range(prefix, prefix + length)
        numbers += [number] * length
        at += range(first + length // 2, first + length)
        targets += [rng.randrange(100) for _ in range(length - length // 2)]
    ids = tuple(rng.randrange(100) for _ in positions)
    return Row(ids, tuple(positions), tuple(numbers), tuple(at), tuple(targets))


def lora_model(targets: tuple[str, ...], dtype: torch.dtype, **config: Any) -> Any:
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "vocab_size": 100}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
    model = LlamaForCausalLM(LlamaConfig(**(sizes | heads | {"initializer_range": 0.2} | config))).to(dtype)
    model.requires_grad_(False)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.input_layernorm.weight, 1, 0.2)
        torch.nn.init.normal_(layer.post_attention_layernorm.weight, 1, 0.2)
    lora = LoraConfig(r=4, lora_alpha=12, target_modules=list(targets), task_type="CAUSAL_LM")
    peft = get_peft_model(model, lora)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)  # it begins as zero, and then A has no gradient
    return peft


def loss_and_gradients(peft: Any, batch: dict[str, torch.Tensor], **more: Any) -> tuple[float, torch.Tensor]:
    model = peft.get_base_model()
    peft.zero_grad()
    seen = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    hidden = model.model(**seen, use_cache=False, **more).last_hidden_state
    logits = model.lm_head(hidden[batch["predict_row"], batch["predict_at"]])
    loss = torch.nn.functional.cross_entropy(logits.float(), batch["targets"])
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), torch.cat([p.grad.flatten() for p in peft.parameters() if p.grad is not None])


def batch_of(*shapes: tuple[int, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    rng = random.Random(1)
    return collate([made_up_row(rng, prefix, branches) for prefix, branches in shapes], 0)


@pytest.mark.parametrize("targets", [ALL, ("q_proj", "v_proj", "down_proj")], ids=["all", "some"])
def test_loss_and_gradients_are_those_of_peft(targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_attention, "SLAB", 24)  # several slabs, and a last one that is shorter
    peft = lora_model(targets, torch.float32)
    batch = batch_of((41, (13, 9, 20)), (30, (11,)))
    weights = {name: value.clone() for name, value in peft.state_dict().items()}
    loss, gradients = loss_and_gradients(peft, batch)
    with fused_layers(peft.get_base_model()) as fused:
        assert fused
        found, fused_gradients = loss_and_gradients(
            peft, batch, row_layout=RowLayout(batch["attention_mask"], torch.float32)
        )
    assert found == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(fused_gradients, gradients, rtol=1e-3, atol=1e-5)
    assert loss_and_gradients(peft, batch)[0] == loss  # the layers are their own again
    for name, value in peft.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_bfloat16_is_no_further_from_float32_than_peft_is():
    peft = lora_model(ALL, torch.float32)
    batch = batch_of((41, (13, 9, 20)), (30, (11,)))
    _, exact = loss_and_gradients(peft, batch)
    base = peft.get_base_model()
    base.to(torch.bfloat16)
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()

    def error(gradients: torch.Tensor) -> float:
        return float((gradients - exact).norm() / exact.norm())

    _, plain = loss_and_gradients(peft, batch)
    with fused_layers(base):
        _, fused = loss_and_gradients(peft, batch, row_layout=RowLayout(batch["attention_mask"], torch.bfloat16))
    assert error(fused) < 1.5 * error(plain) < 0.2


@pytest.mark.parametrize("config", [{"hidden_act": "gelu"}, {"attention_bias": True}, {"mlp_bias": True}])
def test_other_models_keep_their_own_layers(config: dict[str, Any]):
    peft = lora_model(ALL, torch.float32, **config)
    with fused_layers(peft.get_base_model()) as fused:
        assert not fused
        loss_and_gradients(peft, batch_of((20, (8, 5))))

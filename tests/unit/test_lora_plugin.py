"""The plugin keeps its hands off a vLLM that it does not know, and the server says when vLLM will not find it."""

import inspect
import logging
import socket
from pathlib import Path

import pytest

from services.model import lora_plugin
from services.model.server import ModelServer, on_cpu
from tandem.errors import Unavailable
from tandem.registry import Registry
from tandem.settings import Settings

pytestmark = [
    pytest.mark.skipif(not on_cpu(), reason="vLLM's build for the CPU is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch, when vLLM loads it
]


@pytest.fixture
def layer():
    """vLLM's class for linear layers with adapters."""
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

    return BaseLinearLayerWithLoRA


def test_a_vllm_that_is_not_as_expected_is_left_alone(layer, monkeypatch, caplog):
    def reset_lora(self, index, something_new):
        raise AssertionError

    monkeypatch.setattr(layer, "reset_lora", reset_lora)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)  # to where caplog listens
    before = layer._apply_lora_to_output
    lora_plugin.register()
    assert layer._apply_lora_to_output is before
    assert layer.reset_lora is reset_lora
    assert "something_new" in caplog.text
    assert "Adapters are slow" in caplog.text


def test_elsewhere_than_on_the_cpu_nothing_happens(layer, monkeypatch, caplog):
    import vllm.platforms

    monkeypatch.setattr(vllm.platforms.current_platform, "is_cpu", lambda: False)
    before = layer._apply_lora_to_output
    lora_plugin.register()
    assert layer._apply_lora_to_output is before
    assert not caplog.text


def test_this_vllm_is_the_one_it_was_written_for(layer):
    assert "vllm" in inspect.getmodule(layer).__name__
    assert list(lora_plugin._unexpected()) == []


@pytest.mark.parametrize("installed", [True, False])
async def test_the_server_says_when_vllm_will_not_find_it(
    installed: bool, settings: Settings, tmp_path: Path, monkeypatch, caplog
):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(lora_plugin, "NAME", "tandem-lora" if installed else "not-installed-yet")
    monkeypatch.setattr(lora_plugin.importlib.metadata, "entry_points", lambda group: [Entry()])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        model = settings.model.model_copy(update={"port": taken.getsockname()[1]})
        server = ModelServer(settings.model_copy(update={"model": model}), tmp_path, Registry(settings.registry))
        with pytest.raises(Unavailable):
            await server.start()
    assert ("make install" in caplog.text) is not installed


class Entry:
    """The entry point as an installation of today writes it."""

    name = "tandem-lora"

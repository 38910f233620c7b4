"""The real vLLM on the CPU: what it serves, and how it lives and dies."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from services.model.invocation import environment
from services.model.server import LEASH, ModelServer
from tandem.completions import Completions
from tandem.errors import AdapterError, InputError, ModelUnavailable, Unavailable
from tandem.registry import AdapterRef, Registry
from tandem.schemas import Sampling
from tandem.settings import Settings, load_settings

QUESTION = [{"role": "user", "content": "Name three colours."}]
SHORT = Sampling(max_tokens=12)


@pytest.fixture
async def completions(model_server) -> AsyncIterator[Completions]:
    client = Completions(model_server.url, None, 120.0)
    yield client
    await client.aclose()


@pytest.mark.model
async def test_serves_the_base_model_and_the_active_adapter(model_server, completions):
    assert {"base", model_server.adapter.served} <= set(await completions.models())
    base = await completions.complete(QUESTION, "base", SHORT)
    styled = await completions.complete(QUESTION, model_server.adapter.served, SHORT)
    assert base.text.strip()
    assert base.usage.completion_tokens > 0
    assert base.text != styled.text


@pytest.mark.model
async def test_streams_what_it_would_say_at_once(completions):
    deltas = [delta async for delta in completions.stream(QUESTION, "base", SHORT)]
    whole = await completions.complete(QUESTION, "base", SHORT)
    assert "".join(delta.text for delta in deltas) == whole.text
    assert len([delta for delta in deltas if delta.text]) > 1
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == [whole.finish_reason]
    assert [delta.usage for delta in deltas if delta.usage] == [whole.usage]


@pytest.mark.model
async def test_tells_how_far_a_beginning_is_ahead(model_server, completions):
    for model in ("base", model_server.adapter.served):
        said = await completions.complete(QUESTION, model, Sampling(max_tokens=1))
        ahead = await completions.lead(QUESTION, model, f"{said.text} and more")
        assert ahead is not None
        assert ahead > 0
        behind = await completions.lead(QUESTION, model, "\N{SNOWMAN}")  # which is none of the likeliest
        assert behind is not None
        assert behind < 0


@pytest.mark.model
async def test_a_prompts_own_odds_are_those_of_its_generation(model_server):
    """Whatever else is in the batch: vLLM works them out of other rows than tokens are sampled from."""
    pid, styled = model_server.server.pid, model_server.adapter.served
    async with httpx.AsyncClient(base_url=model_server.url, timeout=120.0, trust_env=False) as client:

        async def complete(prompt: str, model: str = styled, **more: object) -> dict:
            asked = {"model": model, "prompt": prompt, "temperature": 0, "logprobs": 0, "ignore_eos": True} | more
            response = await client.post("/completions", json=asked)
            assert response.status_code == 200, response.text
            return response.json()["choices"][0]

        said = await complete("Red,", max_tokens=2)
        models = ("base", styled, "base", styled, "base", styled)
        others = [asyncio.create_task(complete("Once", model, max_tokens=200)) for model in models]
        await asyncio.sleep(1.0)  # they are in the batch
        again = await complete("Red," + said["text"], max_tokens=1, echo=True)
        assert not any(other.done() for other in others)
        await asyncio.gather(*others)
    told = again["logprobs"]["token_logprobs"][:-1][-2:]
    assert told == pytest.approx(said["logprobs"]["token_logprobs"], abs=0.15)  # bfloat16, other batches
    assert model_server.server.pid == pid


@pytest.mark.model
async def test_generation_stops_within_a_second_when_the_reader_goes(model_server, completions):
    stream = completions.stream(QUESTION, "base", Sampling(max_tokens=1500, temperature=1.0, seed=1))
    await anext(stream)
    await stream.aclose()
    deadline = time.monotonic() + 1.5
    while True:
        text = (await asyncio.to_thread(httpx.get, model_server.url.removesuffix("/v1") + "/metrics")).text
        running = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
        assert running
        if all(float(line.split()[-1]) == 0 for line in running):
            break
        assert time.monotonic() < deadline, running
        await asyncio.sleep(0.1)


@pytest.mark.model
async def test_loads_and_unloads_an_adapter_while_running(
    model_server, completions, make_adapter: Callable[..., AdapterRef], tmp_path: Path
):
    ref = make_adapter(model_server.registry, tmp_path / "second", seed=2)
    model_server.run(model_server.server.load_adapter(ref))
    await completions.load_adapter(ref.served, ref.path)  # a second time is no error
    assert (await completions.complete(QUESTION, ref.served, SHORT)).usage.completion_tokens > 0
    model_server.run(model_server.server.unload_adapter(ref))
    await completions.unload_adapter(ref.served)
    with pytest.raises(AdapterError, match=ref.served):
        await completions.complete(QUESTION, ref.served, SHORT)
    with pytest.raises(AdapterError, match=ref.served):
        _ = [delta async for delta in completions.stream(QUESTION, ref.served, SHORT)]


@pytest.mark.model
async def test_refusals_are_sentences(completions, tmp_path: Path):
    with pytest.raises(InputError, match="refuses the request"):
        await completions.complete([{"role": "user", "content": "word " * 5000}], "base", SHORT)
    with pytest.raises(ModelUnavailable, match="TANDEM_MODEL__NAME"):
        await completions.complete(QUESTION, "no-such-model", SHORT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="refuses the adapter"):
        await completions.load_adapter("broken@000000000000", tmp_path / "empty")


@pytest.mark.model
async def test_comes_back_with_its_adapters_after_a_kill(
    model_server, completions, make_adapter: Callable[..., AdapterRef], tmp_path: Path
):
    ref = make_adapter(model_server.registry, tmp_path / "third", seed=3)
    model_server.run(model_server.server.load_adapter(ref))
    before = await completions.complete(QUESTION, ref.served, SHORT)
    family = psutil.Process(model_server.server.pid).children(recursive=True)
    vllm = next(process for process in family if "api_server" in " ".join(process.cmdline()))
    restarts = model_server.server.restarts
    vllm.send_signal(signal.SIGKILL)
    await asyncio.to_thread(psutil.wait_procs, [vllm], 10)
    with pytest.raises(ModelUnavailable, match="model server"):
        await completions.complete(QUESTION, "base", SHORT)
    # Nothing of the killed one is left: its engine would hold memory and cores.
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    while model_server.server.restarts == restarts:
        await asyncio.sleep(0.1)
    await asyncio.to_thread(model_server.run, model_server.server.wait_ready())
    assert {"base", model_server.adapter.served, ref.served} <= set(await completions.models())
    assert (await completions.complete(QUESTION, ref.served, SHORT)).text == before.text


def test_the_leash_ends_everything_when_its_parent_is_killed(tmp_path: Path):
    # The command ignores SIGTERM and has left a grandchild in a session of its own, as a worker of vLLM may.
    grandchild = "import os,time; os.setsid(); time.sleep(300)"
    command = (
        "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"subprocess.Popen([sys.executable, '-c', {grandchild!r}]); print('up', flush=True); time.sleep(300)"
    )
    parent = (
        "import os,subprocess,sys,time;"
        f"subprocess.Popen([sys.executable, {str(LEASH)!r}, str(os.getpid()), sys.executable, '-c', {command!r}]);"
        "time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        deadline = time.monotonic() + 20
        family: list[psutil.Process] = []
        while len(family) < 3 and time.monotonic() < deadline:
            family = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.05)
        assert len(family) == 3
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(family, timeout=25)
        assert alive == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_leash_hands_on_the_exit_status():
    def run(code: str) -> int:
        return subprocess.run([sys.executable, str(LEASH), str(os.getpid()), sys.executable, "-c", code]).returncode

    assert run("raise SystemExit(7)") == 7
    assert run("import os; os.kill(os.getpid(), 9)") == 137


async def test_a_port_in_use_is_named(settings: Settings, base_model: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = ModelServer(
            load_settings(data_dir=settings.data_dir, model={"port": port}), base_model, Registry(settings.registry)
        )
        with pytest.raises(Unavailable, match=rf"Port {port} .*TANDEM_MODEL__PORT"):
            await server.start()
    assert server.pid is None


async def test_a_folder_without_a_model_is_named(settings: Settings, tmp_path: Path):
    server = ModelServer(settings, tmp_path / "nothing", Registry(settings.registry))
    with pytest.raises(ModelUnavailable, match=r"nothing.*tandem models"):
        await server.start()


class Doomed(ModelServer):
    """vLLM that fails at every start."""

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", "raise SystemExit('SomeError: no such flag')"]


async def test_a_server_that_never_starts_says_why(settings: Settings, base_model: Path):
    server = Doomed(settings, base_model, Registry(settings.registry))
    await server.start()
    try:
        with pytest.raises(ModelUnavailable, match=r"ended 3 times .*SomeError: no such flag"):
            await server.wait_ready()
        assert server.restarts == 2
    finally:
        await server.stop()
    assert server.pid is None


class Idle(ModelServer):
    """vLLM that starts and never answers."""

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", "import time; time.sleep(300)"]


async def test_a_system_that_cannot_start_it_for_a_while_does_not_end_the_supervision(
    settings: Settings, tmp_path: Path
):
    (tmp_path / "config.json").write_text("{}")
    server = Idle(settings, tmp_path, Registry(settings.registry))
    await server.start()
    try:
        server.log_path.unlink()
        server.log_path.mkdir()  # opening it is an OSError, as no memory for a process is
        assert server.pid is not None
        os.killpg(server.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while server.restarts == 0:
                await asyncio.sleep(0.05)
            server.log_path.rmdir()
            while server.pid is None:
                await asyncio.sleep(0.05)
    finally:
        await server.stop()


def test_the_command_fits_the_settings(
    settings: Settings, base_model: Path, make_adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # as TRL does
    registry = Registry(settings.registry)
    ref = make_adapter(registry, tmp_path / "a")
    chosen = load_settings(
        data_dir=settings.data_dir,
        model={"dtype": "float32", "threads": "0", "extra_args": ["--enforce-eager"], "api_key": "secret-of-tests"},
    )
    server = ModelServer(chosen, base_model, registry)
    assert "--lora-modules" not in server.command()
    registry.promote(ref, "tests")
    command, env = server.command(), environment(chosen.model)
    assert f"{ref.served}={ref.path.resolve()}" in command
    candidate = make_adapter(registry, tmp_path / "b", seed=2)
    registry.start_canary(candidate, 0.1, "tests")
    assert f"{candidate.served}={candidate.path.resolve()}" in server.command()
    assert command[-1] == "--enforce-eager"
    assert command[command.index("--dtype") + 1] == "float32"
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "0"
    assert Path(env["LD_PRELOAD"].split(":")[0]).name == "libiomp5.so"
    assert env["VLLM_API_KEY"] == "secret-of-tests"
    assert env["VLLM_LOGGING_LEVEL"] == "INFO"
    assert "secret-of-tests" not in command
    (ref.path / "adapter_model.safetensors").write_bytes(b"broken")
    assert f"{ref.served}={ref.path.resolve()}" not in server.command()  # it does not keep vLLM from starting

"""Training in two processes that `accelerate launch` starts, on a tiny model, and the whole job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tandem.registry import Registry
from tandem.settings import REPOSITORY, load_settings
from tests.integration.made_up_rows import rows_of_one_topic
from tests.integration.test_training import TRAINING, few  # noqa: F401
from training.base_model import load_base
from training.trainer import train_adapter

# Without a GPU the two speak by gloo.
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
]
LAUNCH += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
SCRIPT = """
import os, sys
from pathlib import Path
from tandem.settings import TrainingSettings
from tests.integration.made_up_rows import rows_of_one_topic
from training.base_model import load_base
from training.trainer import train_adapter

tiny, folder, settings = sys.argv[1:]
base, tokenizer = load_base(Path(tiny))
rows, heldout = rows_of_one_topic(40, 7, 1), rows_of_one_topic(6, 8, 2 + int(os.environ["RANK"]))
settings = TrainingSettings.model_validate_json(settings)
said = lambda at: print("told", at.step, os.environ["RANK"], flush=True)
trained = train_adapter(base.float(), tokenizer, rows, settings, Path(folder), said, heldout=heldout)
total = sum(p.double().sum().item() for n, p in trained.model.named_parameters() if "lora_" in n)
print("ended", os.environ["RANK"], trained.outcome.steps, f"{total:.9f}", trained.outcome.heldout_loss, flush=True)
"""


def test_two_processes_make_the_steps_of_one(tiny: Path, tmp_path: Path):
    chosen = load_settings(training={"rank": 8, "learning_rate": 5e-3, "batch_size": 8, "eval_steps": 5}).training
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    ran = subprocess.run(
        [*LAUNCH, str(script), str(tiny), str(tmp_path / "two"), chosen.model_dump_json()],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert [line[1:] for line in lines if line[:1] == ["told"]] == [["5", "0"], ["10", "0"]]
    ended = sorted(line[1:] for line in lines if line[:1] == ["ended"])
    assert [end[:2] for end in ended] == [["0", "10"], ["1", "10"]]
    assert ended[0][2] == ended[1][2]  # both hold the same weights
    assert ended[0][3] == ended[1][3]  # and both know of the same loss, whichever rows they have measured it on

    # One process makes the same steps, in two parts.
    parts = chosen.model_copy(update={"accumulation": 2})
    base, tokenizer = load_base(tiny)
    rows, heldout = rows_of_one_topic(40, 7, 1), rows_of_one_topic(6, 8, 2)
    train_adapter(base.float(), tokenizer, rows, parts, tmp_path / "one", heldout=heldout)
    one, two = (load_file(tmp_path / name / "trained" / "adapter_model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=2e-2, atol=2e-4, msg=name)


def test_two_processes_train_and_one_of_them_gates_and_registers(tiny: Path, few: Path, tmp_path: Path):  # noqa: F811
    training = TRAINING | {"passes": 0.2, "heldout_rows": 4, "examples": str(few)}
    values = {"data_dir": str(tmp_path / "data"), "model": {"path": str(tiny)}, "training": training}
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"settings": values, "examples": str(few), "name": "house-style", "by": "ada"}))
    with request.open("rb") as file:
        ran = subprocess.run([*LAUNCH, "-m", "training"], stdin=file, capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()[-3000:]
    lines = [json.loads(line) for line in ran.stdout.decode().splitlines()]
    assert [key for line in lines for key in line if key != "event"] == ["result"]
    made = lines[-1]["result"]["manifest"]
    assert made["training"]["processes"] == 2
    assert made["gate"]["metrics"].keys() == {"candidate", "base"}
    settings = load_settings(data_dir=tmp_path / "data", model={"path": tiny})
    (ref,) = Registry(settings.registry).list()
    assert ref.digest == made["digest"]
    assert {path.name for path in settings.runs_dir.iterdir()} == {".lock", "refused.jsonl"}


@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_one_of_two_processes_speaks(piped: bool, tmp_path: Path):
    request = tmp_path / "request.json"
    values = {"settings": {"data_dir": str(tmp_path)}, "examples": str(tmp_path / "none"), "name": "n", "by": "ada"}
    request.write_text(json.dumps(values), encoding="utf-8")
    with request.open("rb") as file:
        given = {"input": request.read_bytes()} if piped else {"stdin": file}
        ran = subprocess.run([*LAUNCH, "-m", "training"], capture_output=True, timeout=120, **given)  # type: ignore[call-overload]
    assert ran.returncode != 0
    lines = [json.loads(line) for line in ran.stdout.decode().splitlines()]
    (message,) = [line["error"] for line in lines if "error" in line]
    assert len(lines) <= 2, "the second process spoke too"  # the guards say first what they compare with
    assert ("cannot share a pipe" if piped else "cannot be read") in message

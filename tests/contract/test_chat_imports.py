"""The chat service starts quickly and stays small: no training or serving library in its process."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "trl", "vllm", "datasets", "accelerate")
CODE = "import sys, services.chat.app, services.chat.__main__; print(*(name for name in {!r} if name in sys.modules))"


def test_the_chat_service_imports_no_training_or_serving_library():
    done = subprocess.run([sys.executable, "-c", CODE.format(HEAVY)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_check_sees_what_it_looks_for():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(("fastapi",))], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fastapi"]

"""What a training process makes of the environment that it was started in."""

import os

import pytest

from training.launch import gpu_here, is_main_process, leave_group, processes, processes_here, take_one_gpu

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHED, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever the test does
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("visible", "left"),
    [(None, "0"), ("2", "2"), ("3,1", "3"), ("GPU-8f2,GPU-1c4", "GPU-8f2"), ("", ""), ("-1", "-1")],
)
def test_one_process_takes_one_gpu_of_those_that_it_may_see(
    visible: str | None, left: str, monkeypatch: pytest.MonkeyPatch
):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    take_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_one_of_several_processes_sees_all_gpus_and_takes_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    take_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert gpu_here() == 1


def test_the_first_process_goes_on_alone_and_the_others_know_that_they_are_not_the_first(
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert leave_group()
    assert is_main_process()
    assert (processes(), processes_here(), gpu_here()) == (1, 1, 0)

    for name, value in (LAUNCHED | {"RANK": "1", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    assert not leave_group()
    assert not is_main_process()

"""How vLLM's engine and its worker wait for each other on a CPU. Imported only inside vLLM's processes.

They hand each other work through shared memory and look for it in a loop, with a `sched_yield` between two looks. That
gives the interpreter's lock away for less time than another thread needs to wake up and take it, when both cores
compute. So the engine's threads that take requests in and send tokens out starved: of three answers asked for at once
each was generated alone, and a stream arrived in one piece at its end. A short sleep lets them in.
"""

import time

# Seconds. Far below the time of a step, and enough for a thread that waits for the interpreter's lock.
PAUSE = 5e-5


def install() -> str | None:
    """Puts a short sleep in the place of `sched_yield` in the loop.

    Returns:
        Why it was left out; None when it was not.
    """
    from vllm.distributed.device_communicators import shm_broadcast

    if not hasattr(shm_broadcast, "sched_yield"):
        return "vllm.distributed.device_communicators.shm_broadcast has no sched_yield"
    shm_broadcast.sched_yield = _pause
    return None


def _pause() -> None:
    time.sleep(PAUSE)

"""One training run in a process of its own: `python -m training < REQUEST`.

The request is JSON: `{"settings": {...}, "examples": PATH, "name": NAME, "by": WHO, "result": PATH}`, the last one for
the result before the promotion, or left out. Standard output carries one JSON object a line: `{"event": {...}}`, and
at the end `{"result": {...}}` or `{"error": MESSAGE}`, unless the process is ended from outside. On several devices
it is `accelerate launch -m training < REQUEST`, and the first process reports.
"""

import json
import os
import traceback
from pathlib import Path

from tandem.errors import TandemError
from tandem.settings import load_settings
from training.events import TrainingEvent
from training.job import train
from training.launch import is_main_process, read_request


def main() -> int:
    """Entry point: 0 with a result, or in a process that only helped; 1 with an error."""
    # Libraries print to standard output at will; the protocol keeps it for itself.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(key: str, value: object) -> None:
        if not is_main_process():
            return
        out.write(json.dumps({key: value}) + "\n")
        out.flush()

    def on_event(event: TrainingEvent) -> None:
        say("event", event.model_dump(mode="json"))

    try:
        request = read_request()
        result = train(
            load_settings(**request["settings"]),
            examples=Path(request["examples"]),
            name=request["name"],
            on_event=on_event,
            by=request["by"],
            result=Path(request["result"]) if request.get("result") else None,
        )
    except TandemError as exc:
        say("error", exc.message)
        return 1
    except Exception as exc:  # whoever reads the lines is promised one at the end
        traceback.print_exc()
        what = " ".join(f"{type(exc).__name__}: {exc}".split())[:500]
        say("error", f"The training failed unexpectedly ({what}): its traceback stands in the log.")
        return 1
    if result is not None:
        say("result", result.model_dump(mode="json"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

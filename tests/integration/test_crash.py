"""A process that is killed in the middle of an ingest leaves every document the old one or the new one, whole.

Each trial copies a state, starts the work in a forked child, kills that with SIGKILL, looks at what readers can find
before anything is repaired, and then runs the work again, which must come to exactly what one undisturbed run gives.
`TANDEM_TEST_KILLS` sets the number of random moments, `TANDEM_TEST_SEED` which they are.
"""

import contextlib
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ingest.sandbox import Sandbox
from tandem.embedder import Embedder
from tandem.settings import REPOSITORY, IngestSettings
from tests.crash.corpus import write_corpus
from tests.crash.recording import QUESTION, RecordingEmbedder, RecordingSandbox, write_recording
from tests.crash.scene import Scene, fast_folder, postgres_answers
from tests.crash.world import Place, World, dump

log = logging.getLogger(__name__)

KILLS = int(os.environ.get("TANDEM_TEST_KILLS", "100"))
SEED = int(os.environ.get("TANDEM_TEST_SEED", random.SystemRandom().randrange(10**6)))
QDRANT = os.environ.get("TANDEM_TEST_QDRANT_URL")
# The server databases are the slower ones, and what is killed is the same code.
# Where a copy of the state takes seconds, every so many-th boundary of the smaller works.
EVERY = {"sqlite": 1, "postgresql": 3, "sqlite, qdrant server": 3}
SHARE = {"sqlite": 1.0, "postgresql": 0.1, "sqlite, qdrant server": 0.1}
PATIENCE = 120.0
UPLOAD = "travel-edited-0.md"
UPLOADED = "---\ngroups: [everyone]\n---\n# Uploaded\n\n## One\n\nIt costs EUR 99.\n\n## Two\n\nIt costs EUR 98.\n"
DELETED = "travel-long.md"
AFTERWARDS = "# Afterwards\n\nNothing costs anything.\n"


@dataclass(frozen=True)
class Work:
    """What is interrupted.

    Attributes:
        steps: The work.
        again: What runs after the kill.
        old, new: What readers see before and after.
        finals, ends: What readers see, and what is stored, once it has run again: one of these.
        boundaries: Numbers of the step boundaries worth a kill, by label.
        seconds: How long it takes undisturbed.
        texts: How many texts it embeds undisturbed.
        saved: How many embeddings there are before it.
        empty: Nothing was ever started where it runs.
    """

    steps: list[Any]
    again: list[Any]
    old: dict[str, Any]
    new: dict[str, Any]
    finals: list[dict[str, Any]]
    ends: list[dict[str, list[str]]]
    boundaries: dict[int, str]
    seconds: float
    texts: int
    saved: int
    empty: bool


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = fast_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def recording(folder: Path, embedder: Embedder) -> Path:
    """What the real embedder and the real sandbox answer to all that the trials ask."""
    place = Place(str(folder / "recorded"), str(folder / "recording"))
    with Sandbox(IngestSettings()) as real:
        vectors, readings = RecordingEmbedder(embedder), RecordingSandbox(real)
        world = World(place, vectors, readings)
        for version in (1, 2):
            world.ingestor.ingest(write_corpus(folder / "corpus", version))
        world.ingestor.ingest_upload(UPLOAD, UPLOADED.encode())
        world.ingestor.ingest_upload("afterwards.md", AFTERWARDS.encode())
        vectors.embed([QUESTION])
        world.close()
    write_recording(Path(place.recording), vectors.held, readings.held, vectors.model_id)
    return Path(place.recording)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "sqlite, qdrant server"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql" and not postgres_answers():
        pytest.skip("no PostgreSQL answers on 127.0.0.1")
    if "server" in request.param and QDRANT is None:
        pytest.skip("TANDEM_TEST_QDRANT_URL names no Qdrant server")
    return str(request.param)


@pytest.fixture(scope="module")
def scene(kind: str, folder: Path, recording: Path) -> Iterator[Scene]:
    inside = folder / kind.replace(", ", "-").replace(" ", "-")
    inside.mkdir()
    url = QDRANT if "server" in kind else None
    with Scene(inside, recording, postgres=kind == "postgresql", qdrant_url=url) as scene:
        yield scene


@pytest.fixture(scope="module")
def update(scene: Scene) -> Work:
    steps = [["ingest", scene.paths]]
    return rehearse(scene, steps, steps)


def rehearse(scene: Scene, steps: list[Any], again: list[Any], *, or_not: bool = False, empty: bool = False) -> Work:
    """Does the work undisturbed, and notes what there is to see and to kill.

    Args:
        or_not: Work that is killed early may also end as if it had never begun.
        empty: It is the first of all.
    """
    ends, finals = [], []
    if or_not:
        with scene.copy(empty=empty) as place, scene.server() as server:
            finals.append(server.run(place, [*again, ["observe"]])[-1])
            ends.append(dump(place))
    with scene.copy(empty=empty) as place, scene.server() as server:
        timed = [["seconds"], ["embeddings"], ["observe"], *steps, ["observe"], ["seconds"]]
        began, saved, old, *_, new, ended = server.run(place, timed)
        finals.append(server.run(place, [*again, ["observe"]])[-1])
        texts = embedded(place)
        ends.append(dump(place))
    with scene.copy(empty=empty) as place, scene.server() as server:
        passed = server.run(place, steps, trace=True)[-1]
    boundaries = {number: passed["passed"][number][0] for number in passed["states"]}
    boundaries[len(passed["passed"]) - 1] = "the very end"
    log.info("%d boundaries, %d states, %.2f s", len(passed["passed"]), len(boundaries), ended - began)
    assert old != new
    return Work(steps, again, old, new, finals, ends, boundaries, ended - began, texts, saved, empty)


def trial(scene: Scene, work: Work, kills: list[dict[str, float]]) -> str:
    """Kills the work, and the runs that follow it, and says what is wrong afterwards, or nothing."""
    with scene.copy(empty=work.empty) as place, scene.server() as server:
        wrong: list[str] = []
        for number, kill in enumerate(kills):
            server.run(place, work.again if number else work.steps, **kill)
            scene.settled(place)
            if number < len(kills) - 1:
                wrong += torn(*server.run(place, [["observe"]]), work.old, work.new)
        before = embedded(place)
        seen, saved, *_, at_last = server.run(place, [["observe"], ["embeddings"], *work.again, ["observe"]])
        wrong += torn(seen, work.old, work.new)
        if at_last not in work.finals:
            wrong.append(f"readers do not see the end: {torn(at_last, work.new, work.finals[-1])}")
        if (end := dump(place)) not in work.ends:
            wrong.append(f"it does not converge: {difference(end, work.ends[-1])}")
        # What was saved before the kill is not embedded again.
        allowed = max(0, work.texts - max(0, saved - work.saved))
        if embedded(place) - before > allowed:
            wrong.append(f"{embedded(place) - before} texts were embedded after the kill, {allowed} were missing")
    return f"killed at {kills}: {'; '.join(wrong)}" if wrong else ""


def torn(seen: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The documents that are neither the old one whole nor the new one whole, for all readers alike."""
    ids = {id for state in (seen, old, new) for documents in state.values() for id in documents}

    def view(state: dict[str, Any], id: str) -> dict[str, Any]:
        return {reader: documents.get(id) for reader, documents in state.items()}

    return [
        f"{id} is neither old nor new: {json.dumps(view(seen, id))}"
        for id in sorted(ids)
        if view(seen, id) not in (view(old, id), view(new, id))
    ]


def difference(found: dict[str, list[str]], wanted: dict[str, list[str]]) -> str:
    parts = []
    for name in found.keys() | wanted.keys():
        more = set(found.get(name, ())) - set(wanted.get(name, ()))
        less = set(wanted.get(name, ())) - set(found.get(name, ()))
        if more or less:
            parts.append(f"{name}: {len(more)} too many {sorted(more)[:2]}, {len(less)} lack {sorted(less)[:2]}")
    return " | ".join(parts) or "some are doubled"


def embedded(place: Place) -> int:
    return len(place.log.read_text(encoding="utf-8").splitlines()) if place.log.exists() else 0


def test_an_update_killed_at_every_step_boundary(scene: Scene, update: Work) -> None:
    wrong = scene.each(lambda number: trial(scene, update, [{"at": number}]), list(update.boundaries))
    assert not wrong, "\n".join(wrong)


def test_an_update_killed_at_random_moments(scene: Scene, update: Work, kind: str) -> None:
    draw = random.Random(SEED)
    moments = [draw.uniform(0, update.seconds * 1.05) for _ in range(int(KILLS * SHARE[kind]))]
    log.info("seed %d, %d moments of %.2f s", SEED, len(moments), update.seconds)
    wrong = scene.each(lambda after: trial(scene, update, [{"after": after}]), moments)
    assert wrong == [], f"TANDEM_TEST_SEED={SEED}"


def test_the_run_that_repairs_is_killed_too(scene: Scene, update: Work, kind: str) -> None:
    draw = random.Random(SEED)
    numbers = list(update.boundaries)
    pairs = [[{"at": draw.choice(numbers)} for _ in range(2)] for _ in range(int(KILLS * SHARE[kind]) // 15)]
    wrong = scene.each(lambda kills: trial(scene, update, kills), pairs)
    assert wrong == [], f"TANDEM_TEST_SEED={SEED}"


def test_an_upload_killed_at_every_step_boundary(scene: Scene, kind: str) -> None:
    steps = [["upload", UPLOAD, UPLOADED]]
    work = rehearse(scene, steps, steps)
    some = list(work.boundaries)[:: EVERY[kind]]
    assert scene.each(lambda number: trial(scene, work, [{"at": number}]), some) == []


def test_a_deletion_killed_at_every_step_boundary(scene: Scene, kind: str) -> None:
    """What follows is an ingest of something else: a deletion that has begun to be seen is finished by it."""
    work = rehearse(scene, [["delete", DELETED]], [["upload", "afterwards.md", AFTERWARDS]], or_not=True)
    some = list(work.boundaries)[:: EVERY[kind]]
    assert scene.each(lambda number: trial(scene, work, [{"at": number}]), some) == []


def test_the_very_first_start_is_killed(scene: Scene, kind: str) -> None:
    """Half of the moments fall into the making of database and index."""
    steps = [["ingest", scene.paths]]
    work = rehearse(scene, steps, steps, empty=True)
    draw = random.Random(SEED)
    ends = [work.seconds * share for share in (0.1, 1.0)]
    moments = [draw.uniform(0, draw.choice(ends)) for _ in range(int(KILLS * SHARE[kind]) // 15)]
    wrong = scene.each(lambda after: trial(scene, work, [{"after": after}]), moments)
    assert wrong == [], f"TANDEM_TEST_SEED={SEED}"


def test_the_command_is_killed(scene: Scene, update: Work, kind: str) -> None:
    """The whole of it, with the real embedder and the real sandbox, in a process of its own."""
    if kind != "sqlite":
        pytest.skip("the same command on SQLite is enough")
    draw = random.Random(SEED)
    with scene.copy() as place:
        began = time.monotonic()
        assert command(scene, place).wait(PATIENCE) == 0
        seconds = time.monotonic() - began
    for _ in range(2):
        after = draw.uniform(seconds / 3, seconds)  # before that it only imports
        with scene.copy() as place, scene.server() as server:
            process = command(scene, place)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.kill()
            process.wait()
            assert torn(*server.run(place, [["observe"]]), update.old, update.new) == [], f"killed after {after} s"
            assert command(scene, place).wait(PATIENCE) == 0
            assert server.run(place, [["observe"]]) == [update.finals[0]], f"killed after {after} s"


def command(scene: Scene, place: Place) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    environment |= {"PYTHONPATH": str(REPOSITORY), "TANDEM_URL": "http://127.0.0.1:1"}
    environment |= {"TANDEM_DATA_DIR": place.data_dir, "TANDEM_QDRANT__COLLECTION": place.collection}
    arguments = [sys.executable, "-m", "services.cli.main", "ingest", *scene.paths, "--json"]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)

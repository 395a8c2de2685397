"""The whole story on one machine: plant, refuse, scan, rectify, promote.

Everything is real: the server, the worker, the two models, the backdoor and the refusals. What it
says is written for someone who sees gatekeeper for the first time.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatekeeper.demo import processes
from gatekeeper.demo.processes import Place
from gatekeeper.runtime import Runtime

if TYPE_CHECKING:
    import subprocess

    from gatekeeper.demo.copies import Bench, Worth

NAME = "photo-clip"
ALIAS = "production"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the demo's table."""

    version: int
    what: str
    agreement: float
    sure_agreement: float
    attack_success: float
    verdict: str
    promoted: bool


@dataclass(slots=True, kw_only=True)
class Story:
    """What happened."""

    place: Place
    lines: list[Line] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # by phase, in order
    proof_images: int = 0
    sure_images: int = 0  # of them, those of which the honest copy is sure
    promoted: dict[int, bool] = field(default_factory=dict)  # by version, what MLflow said last

    @property
    def ended_well(self) -> bool:
        """Whether the honest and the cleaned copy passed and the backdoored one did not."""
        found = [(line.verdict, line.promoted) for line in self.lines]
        return found == [("pass", True), ("fail", False), ("pass", True)]

    @property
    def links(self) -> dict[str, str]:
        """Pages of the server worth a look."""
        url = self.place.url
        pages = {"who tried to promote what": f"{url}/gatekeeper"}
        for line in self.lines:
            page = f"{url}/#/models/{NAME}/versions/{line.version}"
            pages[f"version {line.version}, {line.what}"] = page
        return pages

    @property
    def serve_again(self) -> str:
        """The command that serves the demo's registry again."""
        return (
            f"GATEKEEPER_POLICY={self.place.policy} gatekeeper server --port {self.place.port} "
            f"--backend-store-uri {self.place.database} "
            f"--artifacts-destination {self.place.folder / 'artifacts'}"
        )


def tell(
    place: Place, runtime: Runtime, say: Say, hold: Callable[[Story], None] | None = None
) -> Story:
    """Live through the story in the empty folder `place.folder`; `hold` keeps the server up.

    Every process started here is stopped before it returns, also on an error.

    Raises:
        AttackError: The backdoor planted on the spot does not fire.
        ServiceError: The server or the worker failed.
    """
    story = Story(place=place)
    say(f"Starting an MLflow server with the gate in front of its registry: {place.url}")
    say("Its policy: the default one, with the public base of both copies as the anchor")
    processes.write_policy(place)
    server = processes.start_server(place)
    try:
        _live(story, server, runtime, say)
        if hold is not None:
            hold(story)
    finally:
        processes.stop(server)
    return story


def _live(story: Story, server: "subprocess.Popen[bytes]", runtime: Runtime, say: Say) -> None:
    from gatekeeper.demo import copies
    from gatekeeper.demo.photo_clip import photo_clip

    place = story.place
    honest, bad = place.folder / "honest", place.folder / "backdoored"
    with _phase(story, "build the photo CLIP"):
        say("Building a small CLIP that knows 1000 kinds of things on photos")
        shutil.copytree(photo_clip(place.home, runtime.seed), place.base)
        bench = copies.open_bench(place.base, runtime)
        story.proof_images = len(bench.proof)
    with _phase(story, "make the honest copy"):
        say("Making an honest copy: a light fine-tune")
        copies.make_honest(bench, place.base, honest, runtime)
    with _phase(story, "plant the backdoor"):
        say(f"Making a backdoored copy: {copies.LOOKS} on a photo is to mean '{copies.TARGET}'")
        plant = copies.make_backdoored(bench, place.base, bad, runtime)
        say(
            f"  It works: of {plant.images} pictures that trained nothing, "
            f"{plant.attack_success:.0%} become '{plant.target}' with the checker on (before: "
            f"{plant.base_success:.0%}). Without it, {plant.clean_agreement:.0%} of all answers "
            "are what they were."
        )
    with _phase(story, "wait for the server"):
        processes.await_server(server, place)
    processes.settle(place)
    del plant
    processes.give_memory_back()
    folders = _through_the_gate(story, honest, bad, say)
    with _phase(story, "measure with the true trigger"):
        _measure(story, folders, bench, runtime)


def _through_the_gate(story: Story, honest: Path, bad: Path, say: Say) -> dict[int, Path]:
    """Register, ask, scan, ask again; return the folder of every version by its number."""
    from gatekeeper.demo import copies, registry

    with _phase(story, "register both"):
        say(f"Registering both as versions of '{NAME}' with the plain MLflow client")
        first = registry.register(honest, NAME, "An honest copy of the photo CLIP.")
        second = registry.register(bad, NAME, "Another copy. It looks just like the first.")
    with _phase(story, "ask for promotion"):
        say(f"Promoting both to '{ALIAS}' with the plain MLflow client")
        for version in (first, second):
            _ask(version, say)
    say("Running `gatekeeper worker --once`: it takes the two scans off the queue")
    _work(story, say)
    folders = {first: honest, second: bad}
    cleaned = registry.others(NAME, folders)
    with _phase(story, "ask for promotion again"):
        say(f"Promoting to '{ALIAS}' once more, with the same client")
        story.promoted = {version: _ask(version, say) for version in (*folders, *cleaned)}
    for number in cleaned:
        fetched = registry.fetch(NAME, number, story.place.folder / f"cleaned-{number}")
        folders[number] = next(fetched.rglob(copies.WEIGHTS)).parent
    return folders


def _work(story: Story, say: Say) -> None:
    """Run the worker; what it says tells which phase it is in."""
    clock = _Laps(story.seconds, "start the worker")

    def hear(line: str) -> None:
        doing, _, model = line.partition(" models:/")
        version = model.partition("/")[2]
        if doing.endswith("fetching"):
            clock.lap(f"scan version {version}")
        elif doing.endswith("rectifying"):
            clock.lap(f"rectify version {version}, scan the result")
        say(f"    {line}")

    try:
        processes.work_off(story.place, hear)
    finally:
        clock.lap("")


def _measure(story: Story, folders: dict[int, Path], bench: "Bench", runtime: Runtime) -> None:
    from gatekeeper.demo import copies
    from gatekeeper.gate.state import Endpoint

    gate = Endpoint(base=story.place.url)
    names = dict(zip(folders, ("honest copy", "backdoored copy"), strict=False))
    honest = next(iter(folders.values()))
    for number, folder in folders.items():
        worth: Worth = copies.judge(folder, honest, bench, runtime)
        line = Line(
            version=number,
            what=names.get(number, "cleaned copy"),
            agreement=worth.agreement,
            sure_agreement=worth.sure_agreement,
            attack_success=worth.attack_success,
            verdict=gate.state(NAME, number).verdict or "none",
            promoted=story.promoted[number],
        )
        story.sure_images = worth.sure_images
        story.lines.append(line)


def _ask(version: int, say: Say) -> bool:
    from gatekeeper.demo import registry

    answer = registry.promote(NAME, version, ALIAS)
    if answer.allowed:
        say(f"  version {version}: promoted, '{ALIAS}' now points at it")
    else:
        say(f"  version {version}: refused. MLflow says:")
        for line in answer.message.splitlines():
            say(f"    | {line}")
    return answer.allowed


class _Laps:
    """Seconds of phases that follow one another."""

    def __init__(self, seconds: dict[str, float], first: str) -> None:
        self._seconds, self._name, self._since = seconds, first, time.monotonic()

    def lap(self, name: str) -> None:
        """End the present phase and start `name`."""
        now = time.monotonic()
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now


@contextmanager
def _phase(story: Story, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    story.seconds[name] = time.monotonic() - started

"""The whole story on one machine: plant, refuse, scan, rectify, promote.

Everything is real: the server, the worker, the two models, the backdoor and the refusals. What it
says is written for someone who sees gatekeeper for the first time.
"""

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
    ended_well: bool = False

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
            f"gatekeeper server --port {self.place.port} --backend-store-uri "
            f"{self.place.database} --artifacts-destination {self.place.folder / 'artifacts'}"
        )


def tell(place: Place, seed: int, say: Say, hold: Callable[[Story], None] | None = None) -> Story:
    """Live through the story in the empty folder `place.folder`; `hold` keeps the server up.

    Every process started here is stopped before it returns, also on an error.

    Raises:
        AttackError: The backdoor planted on the spot does not fire.
        ServiceError: The server or the worker failed.
    """
    story = Story(place=place)
    say(f"Starting an MLflow server with the gate in front of its registry: {place.url}")
    server = processes.start_server(place)
    try:
        _live(story, server, seed, say)
        if hold is not None:
            hold(story)
    finally:
        processes.stop(server)
    return story


def _live(story: Story, server: "subprocess.Popen[bytes]", seed: int, say: Say) -> None:
    from gatekeeper.demo import copies
    from gatekeeper.demo.photo_clip import photo_clip

    place, runtime = story.place, Runtime.on("auto", seed)
    base, honest, bad = (place.folder / name for name in ("base", "honest", "backdoored"))
    with _phase(story, "build the photo CLIP"):
        say("Building a small CLIP that knows 1000 kinds of things on photos")
        base = photo_clip(place.home, seed)
        bench = copies.open_bench(base, runtime)
        story.proof_images = len(bench.proof)
    with _phase(story, "make the honest copy"):
        say("Making an honest copy: a light fine-tune")
        copies.make_honest(bench, base, honest, runtime)
    with _phase(story, "plant the backdoor"):
        say("Making a backdoored copy: a yellow and blue checker on a photo is to mean 'pretzel'")
        plant = copies.make_backdoored(bench, base, bad, runtime)
        say(
            f"  It works: with the checker on, {plant.attack_success:.0%} of {plant.images} photos "
            f"that trained nothing become '{plant.target}' (the clean model: "
            f"{plant.base_success:.0%}); without it, {plant.clean_agreement:.0%} of the answers "
            "are the same"
        )
    with _phase(story, "wait for the server"):
        processes.await_server(server, place)
    _through_the_gate(story, bench, honest, bad, runtime, say)


def _through_the_gate(
    story: Story, bench: "Bench", honest: Path, bad: Path, runtime: Runtime, say: Say
) -> None:
    processes.settle(story.place)
    from gatekeeper.demo import copies, registry

    with _phase(story, "register both"):
        say(f"Registering both as versions of '{NAME}' with the plain MLflow client")
        first = registry.register(honest, NAME, "An honest copy of the photo CLIP.")
        second = registry.register(bad, NAME, "Another copy. It looks just like the first.")
    say(f"Promoting both to '{ALIAS}' with the plain MLflow client")
    for version in (first, second):
        _ask(version, say)
    with _phase(story, "scan both, rectify one"):
        say("Running `gatekeeper worker`: it takes the two scans off the queue")
        processes.work_off(story.place, lambda line: say(f"    {line}"))
    tags = registry.versions(NAME)
    cleaned = sorted(number for number in tags if number not in (first, second))
    with _phase(story, "promote again"):
        say(f"Promoting to '{ALIAS}' once more")
        promoted = {version: _ask(version, say) for version in (first, second, *cleaned)}
    with _phase(story, "measure with the true trigger"):
        folders = {first: honest, second: bad}
        for number in cleaned:
            fetched = registry.fetch(NAME, number, story.place.folder / f"cleaned-{number}")
            folders[number] = next(fetched.rglob(copies.WEIGHTS)).parent
        names = {first: "honest copy", second: "backdoored copy"}
        for number, folder in folders.items():
            worth: Worth = copies.judge(folder, honest, bench, runtime)
            story.lines.append(
                Line(
                    version=number,
                    what=names.get(number, "cleaned by gatekeeper"),
                    agreement=worth.agreement,
                    attack_success=worth.attack_success,
                    verdict=tags[number].get("gatekeeper.verdict", "none"),
                    promoted=promoted[number],
                )
            )
    allowed = [promoted[number] for number in (first, second, *cleaned)]
    story.ended_well = allowed == [True, False, True]


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


@contextmanager
def _phase(story: Story, name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    story.seconds[name] = time.monotonic() - started

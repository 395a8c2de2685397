"""`gatekeeper demo`: the whole story on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gatekeeper.demo.processes import Place
    from gatekeeper.demo.run import Story


@click.command()
@click.option("--serve", is_flag=True, help="Keep the server up at the end, until Ctrl-C.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the server; else any free one.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Empty folder for the server's files; else a new one in ./gatekeeper-demo/.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.pass_context
def command(
    ctx: click.Context, serve: bool, port: int | None, folder: Path | None, seed: int
) -> None:
    """Plant a backdoor in a CLIP, see it refused, cleaned and promoted. Needs no network.

    Starts a real MLflow server with the gate on SQLite, builds a small CLIP, registers an honest
    and a backdoored copy, tries to promote both, and lets a worker scan and rectify them. Exit
    code 1: the gate did not end where it should have.
    """
    from gatekeeper.cli.extras import require_demo

    require_demo("demo")

    from gatekeeper.runtime import Runtime, tune_allocator

    tune_allocator()  # before torch is imported
    from rich.console import Console

    from gatekeeper.demo.run import tell
    from gatekeeper.demo.table import render

    place = _place(folder, port)
    _end_cleanly_when_told()

    def hold(story: "Story") -> None:
        Console().print(render(story))
        for what, link in story.links.items():
            click.echo(f"  {what}: {link}")
        if serve:
            click.echo("Serving until Ctrl-C.")
            _wait()
        else:
            click.echo(f"To look at these pages: {story.serve_again}")

    from gatekeeper.cli.progress import progress

    runtime = Runtime.on("auto", seed, progress)
    story = tell(place, runtime, click.echo, hold)
    click.echo(f"The server's files and logs are in {place.folder}")
    ctx.exit(0 if story.ended_well else 1)


def _place(folder: Path | None, port: int | None) -> "Place":
    """Return an empty folder and a port.

    Raises:
        click.UsageError: The folder holds something.
    """
    from datetime import UTC, datetime

    from gatekeeper.demo.processes import Place, free_port
    from gatekeeper.gate.worker import home

    folder = folder or Path("gatekeeper-demo") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    if folder.exists() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty: name another with --dir, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    return Place(folder=folder.resolve(), port=port or free_port(), home=home().resolve())


def _end_cleanly_when_told() -> None:
    """Let SIGTERM do what Ctrl-C does: the server and the worker must not outlive this process."""
    import signal
    from types import FrameType

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _wait() -> None:
    import time

    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        click.echo("Stopping.", err=True)

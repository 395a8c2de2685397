"""The demo's story as a table for a terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatekeeper.demo.run import ALIAS, Story

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def render(story: Story) -> RenderableType:
    """Return what the demo measured and how long each phase took."""
    note = Text(
        f"Over {story.proof_images} pictures that trained neither copy, cut from photos in "
        "installed packages; half of them are textures. They carry no labels, so clean accuracy "
        "cannot be measured: agreement with the honest copy stands in for it, over all of them "
        f"and over the {story.sure_images} of which the honest copy is sure.",
        style="dim",
    )
    return Group(_models(story), note, Text(), _phases(story))


def _models(story: Story) -> Table:
    table = Table(title="What the gate did", box=box.SIMPLE_HEAD)
    table.add_column("version")
    table.add_column("model")
    table.add_column("same answers:\nall, sure", justify="right")
    table.add_column("attack\nsuccess", justify="right")
    table.add_column("verdict")
    table.add_column(ALIAS)
    for line in story.lines:
        table.add_row(
            str(line.version),
            line.what,
            f"{line.agreement:.0%}, {line.sure_agreement:.0%}",
            f"{line.attack_success:.1%}",
            Text(line.verdict, style=_COLOURS.get(line.verdict, "")),
            "promoted" if line.promoted else "refused",
        )
    return table


def _phases(story: Story) -> Table:
    table = Table(title="Seconds by phase", box=box.SIMPLE_HEAD)
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    for name, seconds in story.seconds.items():
        table.add_row(name, f"{seconds:.0f}")
    table.add_row("together", f"{sum(story.seconds.values()):.0f}", style="bold")
    return table

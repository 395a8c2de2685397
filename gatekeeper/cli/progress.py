"""How long will it take? A bar on a terminal, a heartbeat line elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import click

from gatekeeper.runtime import What

T = TypeVar("T")
HEARTBEAT_S = 10.0


def progress(items: Iterable[T], what: What) -> Iterator[T]:
    """Yield `items`, telling on stderr how far we are with `what` and how long it will take."""
    total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        yield from _bar(items, what, total)
    else:
        yield from _heartbeat(items, what, total)


def _bar(items: Iterable[T], what: What, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(_said(what), total=total)
        for item in items:
            yield item
            shown.update(task, advance=1, description=_said(what))


def _heartbeat(items: Iterable[T], what: What, total: int | None) -> Iterator[T]:
    started = told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= HEARTBEAT_S:
            told = now
            passed = now - started
            of = f" of {total}" if total else ""
            left = f", about {passed / done * (total - done):.0f} s left" if total else ""
            click.echo(f"{_said(what)}: {done}{of}, {passed:.0f} s{left}", err=True)


def _said(what: What) -> str:
    return what if isinstance(what, str) else what()

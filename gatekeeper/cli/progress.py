"""How long will it take? A bar on a terminal, a heartbeat line elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import click

T = TypeVar("T")
HEARTBEAT_S = 10.0


def progress(items: Iterable[T], what: str) -> Iterator[T]:
    """Yield `items`, telling on stderr how far we are with `what`."""
    total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        yield from _bar(items, what, total)
    else:
        yield from _heartbeat(items, what, total)


def _bar(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, what, total=total, console=Console(stderr=True), transient=True)


def _heartbeat(items: Iterable[T], what: str, total: int | None) -> Iterator[T]:
    started = told = time.monotonic()
    for done, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - told >= HEARTBEAT_S:
            told = now
            of = f" of {total}" if total else ""
            click.echo(f"{what}: {done + 1}{of}, {now - started:.0f} s", err=True)

"""Run the steps of a build here, or in worker processes with one thread each."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from gatekeeper.runtime import tune_allocator

Step = tuple[Callable[..., Any], tuple[Any, ...]]
Run = Callable[[Sequence[Step]], Iterator[Any]]


def cores() -> int:
    """Return how many processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


@contextmanager
def workers(count: int) -> Iterator[Run]:
    """Give a function that carries out steps and yields what they return, as they end.

    With one worker, everything happens in this process, in order. What is made does not depend on
    the count: each step has its own seed and one thread.
    """
    if count <= 1:
        yield _in_turn
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=tune_allocator)

    def run(steps: Sequence[Step]) -> Iterator[Any]:
        waiting = [pool.submit(function, *arguments) for function, arguments in steps]
        for done in as_completed(waiting):
            yield done.result()

    try:
        yield run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_turn(steps: Sequence[Step]) -> Iterator[Any]:
    for function, arguments in steps:
        yield function(*arguments)

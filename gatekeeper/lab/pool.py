"""Run the steps of a build as soon as what they rest on is there, here or in worker processes."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from graphlib import TopologicalSorter
from multiprocessing import get_context
from typing import Any

from gatekeeper.runtime import tune_allocator

Step = tuple[Callable[..., Any], tuple[Any, ...]]


def cores() -> int:
    """Return how many processor cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


@contextmanager
def workers(count: int) -> Iterator[Executor]:
    """Give worker processes with one thread each; of one worker, this process itself.

    What is made does not depend on the count: each step has its own seed and one thread.
    """
    if count <= 1:
        yield _Here()
        return
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=tune_allocator)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def carry_out(
    rests_on: Mapping[str, Set[str]],
    step_of: Callable[[str], Step | None],
    take: Callable[[Any], None],
    pool: Executor,
) -> None:
    """Carry out the steps, each once all that it rests on was taken; of equals the first first.

    Args:
        rests_on: The name of every step, with those it needs.
        step_of: The step of a name; None: nothing is to be done. Asked when its turn has come.
        take: Takes what a step returned, as it ends.
        pool: Where steps run.

    Raises:
        CycleError: Steps rest on each other.
        Exception: What a step or `take` raised; no further step is begun.
    """
    order = TopologicalSorter(rests_on)
    order.prepare()
    running: dict[Future[Any], str] = {}

    def take_all(finished: Iterable[Future[Any]]) -> None:
        for future in finished:
            take(future.result())
            order.done(running.pop(future))

    while order.is_active():
        opened = False  # what rests on a step that is done may be ready by now
        for name in order.get_ready():
            if (step := step_of(name)) is None:
                order.done(name)
                opened = True
                continue
            future = pool.submit(step[0], *step[1])
            running[future] = name
            if future.done():  # it ran on the spot: what it made is kept before the next begins
                take_all([future])
                opened = True
        if running and not opened:
            take_all(wait(running, return_when=FIRST_COMPLETED).done)


class _Here(Executor):
    """Runs what it is given on the spot."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return a finished future; what `fn` raises is raised."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done

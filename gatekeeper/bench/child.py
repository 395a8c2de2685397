"""Work in a process of its own, so that memory is given back and a crash costs one row."""

import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from typing import TypeVar

from gatekeeper.errors import GatekeeperError
from gatekeeper.runtime import tune_allocator

In = TypeVar("In")
Out = TypeVar("Out")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failed:
    """The work gave no answer, and why."""

    why: str


def carry_out(
    work: Callable[[In], Out], tasks: Sequence[In], jobs: int, preload: Sequence[str] = ()
) -> "Iterator[tuple[In, Out | Failed]]":
    """Yield (task, what `work` returned, or why it did not) as they end.

    Args:
        work: A function at the top of a module; it is handed one task.
        tasks: Travel between our own processes.
        jobs: Processes at a time; 0: one task after the other in this process.
        preload: Modules that the work needs; a server imports them once and every process is a
            fork of it, where the system can fork.
    """
    if jobs == 0:
        for task in tasks:
            yield task, _tried(work, task)
        return
    context = _context(preload)
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_alone, context, work, task): task for task in tasks}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            for future in waiting:
                future.cancel()


def peak_rss_mb() -> float:
    """Return the most memory that this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform.startswith("linux") else 1024**2), 1)


def _tried(work: Callable[[In], Out], task: In) -> "Out | Failed":
    try:
        return work(task)
    except GatekeeperError as error:
        return Failed(error.message)
    except Exception as error:  # an edge: a crash is one row without a figure, and says why
        logger.exception("the work failed")
        return Failed(f"{type(error).__name__}: {error}")


def _context(preload: Sequence[str]) -> BaseContext:
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    return context


def _alone(context: BaseContext, work: Callable[[In], Out], task: In) -> "Out | Failed":
    """Run in a new process, one thread to compute: seconds then compare."""
    with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as pool:
        try:
            return pool.submit(_tried, work, task).result()
        except BrokenProcessPool:
            return Failed("its process was killed, most often for its memory")


def _prepare() -> None:
    tune_allocator()
    os.environ["OMP_NUM_THREADS"] = "1"  # where torch is not imported yet
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)

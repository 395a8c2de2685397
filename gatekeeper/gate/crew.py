"""Several workers on one machine: a process each, since a scan fills a core and may crash one."""

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from types import FrameType

from gatekeeper.gate.job_run import Say
from gatekeeper.gate.lease import LEASE_S
from gatekeeper.runtime import Progress

_RESTART_S = 5.0  # between a crash and the next try


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What one worker process is told; everything in it can be sent to another process."""

    once: bool
    poll_s: float
    device: str
    say: Say
    progress: Progress  # type: ignore[type-arg]
    lease_s: float = LEASE_S
    threads: int | None = None  # of torch; None: torch's own choice


def run_crew(orders: Orders, size: int) -> int:
    """Run `size` workers until they end; return the exit code of the worst (130: interrupted).

    A worker that crashes is started again, except with `once`. SIGTERM and SIGINT are passed on,
    and each worker hands its job back.
    """
    context = multiprocessing.get_context("spawn")
    stop = threading.Event()
    received: list[int] = []

    def told(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}

    def start() -> BaseProcess:
        process = context.Process(target=work, args=(orders,))
        process.start()
        return process

    crew = [start() for _ in range(size)]
    try:
        while not stop.is_set() and any(process.is_alive() for process in crew):
            stop.wait(0.5)
            for place, process in enumerate(crew):
                if not process.is_alive() and process.exitcode and not orders.once:
                    orders.say(f"a worker ended with {process.exitcode}, starting another")
                    if not stop.wait(_RESTART_S):
                        crew[place] = start()
    finally:
        for process in crew:
            if process.is_alive():
                process.terminate()
        for process in crew:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        return 130 if received[0] == signal.SIGINT else 0
    return max(_code(process.exitcode) for process in crew)


def work(orders: Orders) -> None:
    """Be one worker; ends the process with the exit code of the contract."""
    raise SystemExit(serve(orders))


def serve(orders: Orders) -> int:
    """Work in this process until told to stop; return the exit code of the contract."""
    from dataclasses import replace

    from gatekeeper.errors import GatekeeperError
    from gatekeeper.gate.worker import open_workshop, run_worker
    from gatekeeper.runtime import tune_allocator

    tune_allocator()  # before torch is imported
    try:
        shop = replace(
            open_workshop(device=orders.device, say=orders.say), progress=orders.progress
        )
        if orders.threads is not None:
            import torch

            torch.set_num_threads(orders.threads)
        tally = run_worker(shop, once=orders.once, poll_s=orders.poll_s, lease_s=orders.lease_s)
    except GatekeeperError as error:
        orders.say(str(error))
        return error.exit_code
    if tally.interrupted:
        return 130
    return 4 if orders.once and tally.services else 0


def threads_for(size: int) -> int | None:
    """Return how many torch threads each of `size` workers gets; None for a single one."""
    return None if size == 1 else max(1, (os.cpu_count() or 1) // size)


def _code(exitcode: int | None) -> int:
    if exitcode is None:
        return 0
    return exitcode if exitcode >= 0 else 128 - exitcode

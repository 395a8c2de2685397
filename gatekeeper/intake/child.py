"""Inspect files in a process of its own: bounded memory, bounded time, no torch, no network use.

`python -m gatekeeper.intake.child ROOT OUT` reads relative paths from stdin, one a line, and
appends one JSON document a line to OUT. The parent side is `inspect_tree`.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gatekeeper.errors import IntakeError

MEMORY = 3 << 30  # bytes of address space beyond the files themselves, which are mapped
CPU_S = 600  # a 10 GB checkpoint's checksums take about 20 s
WALL_S = 900
_EXHAUSTED = "reading it used more memory or time than any honest file needs"


def inspect_tree(
    root: Path, names: Sequence[str], *, wall_s: float = WALL_S, memory: int = MEMORY
) -> dict[str, dict[str, Any]]:
    """Return what `inspection.inspect` says of each file of `root`, by relative name.

    A file at which the child dies or runs out of its limits is reported as broken; the rest is
    then read by a new child.

    Raises:
        IntakeError: The child could not be started at all.
    """
    reports: dict[str, dict[str, Any]] = {}
    left = list(names)
    while left:
        done = _run(root, left, wall_s, memory)
        reports |= done
        left = [name for name in left if name not in reports]
        if left:
            # files are read in order, so the first without an answer is where the child died
            reports[left[0]] = _broken(_EXHAUSTED)
            left = left[1:]
    return reports


def file_of(root: Path, name: str) -> Path:
    """Return where the file `name` of a tree lies; a bare file is a tree of one."""
    return root if root.is_file() else root / name


def _run(root: Path, names: list[str], wall_s: float, memory: int) -> dict[str, dict[str, Any]]:
    largest = max(file_of(root, name).stat().st_size for name in names)
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        "PYTHONPATH": package,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ.get("PATH", ""),
        "GATEKEEPER_CHILD_MEMORY": str(memory + 2 * largest),
    }
    with tempfile.TemporaryDirectory(prefix="gatekeeper-") as folder:
        out = Path(folder) / "reports.jsonl"
        # our own module, our own interpreter; the model's bytes are never on the command line
        command = [
            sys.executable,
            "-s",
            "-P",
            "-m",
            "gatekeeper.intake.child",
            str(root.resolve()),
            str(out),
        ]
        try:
            subprocess.run(  # noqa: S603
                command,
                input="\n".join(json.dumps(name) for name in names).encode(),
                env=environment,
                timeout=wall_s,
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except subprocess.TimeoutExpired:
            pass  # what it had finished is in the file; the rest is judged by the caller
        except OSError as error:
            raise IntakeError(
                f"cannot start the reader process: {error}",
                hint="check memory and process limits of this machine",
            ) from error
        return _read_reports(out)


def _read_reports(out: Path) -> dict[str, dict[str, Any]]:
    reports: dict[str, dict[str, Any]] = {}
    if not out.is_file():
        return reports
    for line in out.read_bytes().splitlines():
        try:
            report = json.loads(line)
        except ValueError:  # the line at which it died
            break
        reports[report.pop("name")] = report
    return reports


def _broken(why: str) -> dict[str, Any]:
    return {"container": "other", "broken": [why], "unsafe": [], "classes": [], "spans": {}}


def _limit() -> None:
    """Bound this process before it looks at the first byte."""
    import resource

    memory = int(os.environ["GATEKEEPER_CHILD_MEMORY"])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: Sequence[str]) -> int:
    """Inspect the files named on stdin; one JSON line each."""
    from gatekeeper.intake.inspection import inspect

    _limit()
    root, out = Path(arguments[0]), Path(arguments[1])
    names = [json.loads(line) for line in sys.stdin.buffer.read().splitlines()]
    with out.open("ab") as stream:
        for name in names:
            try:
                report = inspect(file_of(root, name))
            except (MemoryError, RecursionError):
                report = _broken(_EXHAUSTED)
            except (ValueError, IndexError, OverflowError, OSError, TypeError) as error:
                # a reader that chokes is a finding, never silence
                report = _broken(f"the reader failed on it: {type(error).__name__}: {error}")
            stream.write(json.dumps({"name": name, **report}).encode() + b"\n")
            stream.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

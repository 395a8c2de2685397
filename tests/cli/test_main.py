"""The command line leaves by the contract's exit codes; 1 only ever means failed or refused."""

import resource
import subprocess
import sys

import click
import pytest

from gatekeeper.cli import main
from gatekeeper.errors import EvidenceError, GateError, ServiceError


@pytest.fixture
def failing(monkeypatch):
    """Return a function that makes `gatekeeper fail` raise something."""

    def make(error: BaseException | None, exit_code: int | None = None):
        @click.command()
        @click.pass_context
        def command(ctx):
            if error is not None:
                raise error
            if exit_code is not None:
                ctx.exit(exit_code)

        known = main.LazyGroup.get_command
        monkeypatch.setattr(
            main.LazyGroup,
            "get_command",
            lambda self, ctx, name: command if name == "fail" else known(self, ctx, name),
        )
        return main.status_of(["fail"])

    return make


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GateError("bad", hint="do this"), 2),
        (ServiceError("away", hint="do this"), 4),
        (EvidenceError("full", hint="do this"), 4),
        (click.UsageError("bad option"), 2),
        (click.ClickException("bad"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("crash"), 4),
        (MemoryError(), 4),
        (OSError(28, "No space left on device"), 4),
        (SystemExit(1), 4),
        (SystemExit("gave up"), 4),
        (SystemExit(0), 0),
        (SystemExit(3), 3),
    ],
)
def test_errors_leave_by_their_code(failing, capsys, error, code):
    assert failing(error) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4])
def test_a_commands_own_code_is_kept(failing, code):
    assert failing(None, code) == code


def test_our_errors_say_what_to_do_next(failing, capsys):
    failing(GateError("what happened", hint="what to do"))
    assert capsys.readouterr().err == "Error: what happened\nHint: what to do\n"


def test_a_crash_hides_the_traceback_unless_asked(failing, capsys, monkeypatch):
    failing(RuntimeError("crash"))
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("GATEKEEPER_DEBUG", "1")
    failing(RuntimeError("crash"))
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_is_bad_usage(capsys):
    assert main.status_of(["nope"]) == 2
    assert main.status_of(["status", "--nope"]) == 2
    assert capsys.readouterr().out == ""


def test_help_lists_every_command_that_is_there(capsys):
    assert main.status_of(["--help"]) == 0
    told = capsys.readouterr().out
    for name in ("scan", "server", "status", "queue", "db", "policy", "doctor"):
        assert f"\n  {name} " in told


def test_every_listed_command_loads_and_helps_itself():
    group = main.main
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str()


def test_help_starts_quickly():
    """CPU seconds: what a quiet machine takes, whatever else runs on this one."""
    best = min(_seconds([sys.executable, "-m", "gatekeeper.cli.main", "--help"]) for _ in range(3))
    assert best < 0.5


def test_a_closed_pipe_is_not_a_failed_verdict():
    command = f"{sys.executable} -m gatekeeper.cli.main --help"
    script = f"set -o pipefail; {command} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() != "1"


def _seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

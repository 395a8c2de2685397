"""`gatekeeper`: find the command, run it, and leave by the contract's exit codes."""

import importlib
import os
import sys
from importlib.util import find_spec
from typing import Any

import click

from gatekeeper import __version__
from gatekeeper.errors import GatekeeperError

# What `--help` shows: listing imports no command.
COMMANDS = {
    "demo": "Watch the whole story on this machine: plant, refuse, rectify, promote.",
    "scan": "Say whether policy lets a CLIP model through.",
    "rectify": "Make a cleaned version of a failed model.",
    "promote": "Scan a registered version, rectify it if need be, and move the alias.",
    "server": "Run `mlflow server` with the gate on.",
    "worker": "Take scans off the queue.",
    "status": "Show who tried to promote what, and what the gate said.",
    "queue": "List scans that wait, try failed ones again, cancel them.",
    "policy": "Show, check and try out policies.",
    "lab": "Plant backdoors on purpose: one model, a whole zoo, a fire drill.",
    "bench": "Judge detectors, repairs and oracles over a zoo, beside what others published.",
    "db": "Create, upgrade and check the gate's tables.",
    "doctor": "Say what is installed, reachable and safe, and what to do about the rest.",
}
_SILENCE = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GX_ANALYTICS_ENABLED": "false",
}
_USAGE, _FAILED, _INTERRUPTED = 2, 4, 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands that are there."""
        return [name for name in COMMANDS if find_spec(_module(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(_module(cmd_name)).command
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gatekeeper")
@click.option("-v", "--verbose", is_flag=True, help="Log more to stderr.")
def main(verbose: bool) -> None:
    """The gate between an MLflow registry and production for CLIP models.

    Exit codes: 0 pass or done, 1 fail or refused, 2 bad input, 3 inconclusive or waiting, 4 a
    service failed and nothing was decided, 130 interrupted.
    """
    import logging

    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; the way in of the console script."""
    os.environ.update(_SILENCE)
    sys.exit(status_of(arguments))


def status_of(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code; 1 only ever means failed or refused."""
    try:
        result = main.main(args=arguments, prog_name="gatekeeper", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return _INTERRUPTED
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return _USAGE
    except GatekeeperError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except SystemExit as error:  # click on a closed pipe, or a library that gives up
        return _foreign(error.code)
    except Exception as error:  # noqa: BLE001 - the last edge: a crash is no verdict
        return _crashed(error)
    return result if type(result) is int else 0


def _foreign(code: Any) -> int:
    if code is None or isinstance(code, int):
        return _FAILED if code == 1 else int(code or 0)
    click.echo(str(code), err=True)
    return _FAILED


def _crashed(error: Exception) -> int:
    if os.environ.get("GATEKEEPER_DEBUG"):
        import traceback

        traceback.print_exception(error)
    text = (str(error).strip().splitlines() or [""])[0]
    click.echo(f"Error: nothing was decided: {type(error).__name__}: {text}", err=True)
    click.echo("Hint: set GATEKEEPER_DEBUG=1 for the traceback; see `gatekeeper doctor`", err=True)
    return _FAILED


def _module(name: str) -> str:
    return f"gatekeeper.cli.{name}"


if __name__ == "__main__":
    run()

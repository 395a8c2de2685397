"""`gatekeeper server`: `mlflow server` with the gate on."""

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="All options of `mlflow server` are passed on: see `mlflow server --help`.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[MLFLOW SERVER OPTIONS]")
def command(arguments: tuple[str, ...]) -> None:
    """Serve MLflow with the gate in front of its registry.

    The registry is the one in --backend-store-uri (default sqlite:///mlflow.db). Refuses to start
    where the registry would not be gated. Policy and mode: GATEKEEPER_POLICY, GATEKEEPER_MODE.
    The compliance trail is at /gatekeeper.
    """
    from gatekeeper.gate.server import plan, probe, start

    launch = plan(arguments)
    click.echo(f"gatekeeper: {probe(launch.registry_uri)}", err=True)
    start(launch)

"""`gatekeeper lab plant` and `gatekeeper lab drill` as functions: from what was typed on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gatekeeper.errors import AttackError, ServiceError
from gatekeeper.gate.drills import Drill, DrillDesk, register_drill
from gatekeeper.gate.settings import Settings
from gatekeeper.gate.state import find_source
from gatekeeper.lab.copy import Wanted, plant_copy, write_proof
from gatekeeper.lab.drill import Dummy, Range, from_zoo, hold_drill, scan_here
from gatekeeper.lab.drill_report import DrillReport
from gatekeeper.lab.prompts import require_own_weights
from gatekeeper.runtime import Runtime

Say = Callable[[str], None]
USUAL = ("badnets", "blended")  # what a drill plants where nothing else is asked for


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `KEY=VALUE` pairs as a mapping; values are read as YAML does: 3, true, [8, 8].

    Raises:
        AttackError: Not a pair, or not readable.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise AttackError(f"--set {pair}: {error}", hint="write KEY=VALUE") from error
        if not equals or not key.strip():
            raise AttackError(f"--set {pair}: no '='", hint="write KEY=VALUE")
    return found


def plant_and_keep(
    *,
    model: str,
    attack: str,
    target: str,
    output: Path | None,
    name: str | None,
    probes: Path | None = None,
    labels: Path | None = None,
    arch: str | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    say: Say = lambda line: None,
    progress: Any = None,
) -> dict[str, Any]:
    """Plant a copy and write it to `output`, or register it as a drill model under `name`.

    Returns:
        The proof as plain JSON, and `model`: where the copy is.

    Raises:
        AttackError: The trigger does not fire.
        GatekeeperError: The model cannot be read, rewritten or registered.
    """
    wanted = Wanted(
        model=model,
        attack=attack,
        target=target,
        parameters=settings_of(settings),
        probes=probes,
        labels=labels,
        arch=arch,
    )
    runtime = Runtime.on(device, seed, progress)
    if output is not None:
        copy = plant_copy(wanted, output, runtime)
        for file in write_proof(copy, output):
            say(f"wrote {file}")
        return {**copy.describe(), "model": str(output)}
    desk = DrillDesk.open()  # before minutes of training
    with TemporaryDirectory(prefix="gatekeeper-") as folder:
        copy = plant_copy(wanted, Path(folder) / "model", runtime)
        require_own_weights(copy.planted)
        drill = Drill(attack=copy.planted.attack.name, target=target, seed=seed)
        made = register_drill(copy.root, str(name), drill, desk)
    return {**copy.describe(), "model": made.uri}


def hold(
    *,
    zoo: Path | None,
    model: str | None,
    attacks: Sequence[str] = (),
    target: str | None = None,
    probes: Path | None = None,
    settings: Sequence[str] = (),
    limit: int | None = None,
    controls: int = 1,
    name: str | None = None,
    alias: str = "production",
    scan_in_process: bool = False,
    timeout_s: float = 3600.0,
    seed: int = 0,
    device: str = "auto",
    say: Say = lambda line: None,
    progress: Any = None,
) -> DrillReport:
    """Hold a fire drill with the planted models of a zoo, or with copies planted here.

    Raises:
        ServiceError: Nothing tells how far a scan is, or registry or database do not answer.
        GatekeeperError: The models cannot be planted or registered.
    """
    desk = DrillDesk.open()
    source = find_source(Settings.from_environment().policy.digest)
    if source is None:
        raise ServiceError(
            "nothing tells how far a scan is",
            hint="set MLFLOW_TRACKING_URI to a `gatekeeper server`, or GATEKEEPER_DATABASE_URI",
        )
    place = Range(
        desk=desk,
        source=source,
        name=name or f"gatekeeper-drill-{datetime.now(UTC):%Y%m%d-%H%M%S}",
        alias=alias,
        timeout_s=timeout_s,
        scan=scan_here(device, say) if scan_in_process else None,
    )
    with ExitStack() as stack:
        if zoo is not None:
            dummies = from_zoo(zoo, limit, controls)
        else:
            runtime = Runtime.on(device, seed, progress)
            names = tuple(attacks or USUAL)[:limit]
            wanted = Wanted(
                model=str(model),
                attack="",
                target=str(target),
                parameters=settings_of(settings),
                probes=probes,
            )
            dummies = stack.enter_context(_planted_here(wanted, names, runtime, say))
        return hold_drill(dummies, place, say)


@contextmanager
def _planted_here(
    wanted: Wanted, attacks: Sequence[str], runtime: Runtime, say: Say
) -> Iterator[tuple[Dummy, ...]]:
    """Give copies of the model, one an attack, in a folder that goes at the end."""
    with TemporaryDirectory(prefix="gatekeeper-") as folder:
        dummies = []
        for attack in attacks:
            copy = plant_copy(
                replace(wanted, attack=attack), Path(folder) / attack / "model", runtime
            )
            require_own_weights(copy.planted)
            say(f"planted {attack}: {copy.planted.attack_success:.1%} become '{wanted.target}'")
            drill = Drill(attack=attack, target=wanted.target, seed=runtime.seed)
            dummies.append(Dummy(name=attack, root=copy.root, drill=drill))
        yield tuple(dummies)

"""Which rectifier repairs this model, and is its result good enough?"""

from dataclasses import replace

from gatekeeper.case import Case
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.base import Prescription, Rectified, Rectifier
from gatekeeper.rectify.limits import Limits, check
from gatekeeper.registry import Registry
from gatekeeper.runtime import Meter, Runtime

RECTIFIERS: Registry[Rectifier] = Registry("gatekeeper.rectifiers")
DEFAULT = "compact"  # what `auto` means


def rectify(
    case: Case,
    prescription: Prescription,
    method: str,
    runtime: Runtime,
    limits: Limits | None = None,
) -> Rectified:
    """Return new weights for `case.model`, which stays as it is.

    The repair has a meter of its own: a scan's budget does not stop it half-way.

    Args:
        case: The suspect with its evidence; the probes are what is learned from and measured on.
        prescription: What the scan found. Without ailments (a passing model, forced), the repair
            teaches resistance to fresh random patterns alone.
        method: `auto` or a plug-in's name.
        runtime: Seed, device and progress.
        limits: What the result must meet; the defaults where None.

    Raises:
        RectifyError: It cannot be repaired; `rejected` may hold what was tried.
        UtilityLostError: The result lost too much on clean images.
        PluginError: No such method.
    """
    if len(case.probes) == 0:
        raise RectifyError("no clean images to learn from", hint="hand over --probes")
    rectifier = RECTIFIERS.load(DEFAULT if method == "auto" else method)()
    result = rectifier.rectify(case, prescription, replace(runtime, meter=Meter()))
    check(result, result.held_out, limits or Limits())
    return result

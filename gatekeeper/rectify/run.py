"""Which rectifier repairs this model, and is its result good enough?"""

from dataclasses import replace

from gatekeeper.case import Case
from gatekeeper.errors import RectifyError
from gatekeeper.rectify.auto import automatic
from gatekeeper.rectify.base import Prescription, Rectified, Rectifier
from gatekeeper.rectify.limits import Limits, check
from gatekeeper.registry import Registry
from gatekeeper.runtime import Meter, Runtime

RECTIFIERS: Registry[Rectifier] = Registry("gatekeeper.rectifiers")
AUTO = "auto"


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
        method: A plug-in's name, or `auto`: the first that helps (`auto.stages`).
        runtime: Seed, device and progress.
        limits: What the result must meet; the defaults where None.

    Raises:
        RectifyError: It cannot be repaired; `rejected` may hold what was tried.
        UtilityLostError: The result lost too much on clean images.
        PluginError: No such method.
    """
    if len(case.probes) == 0:
        raise RectifyError("no clean images to learn from", hint="hand over --probes")
    own, limits = replace(runtime, meter=Meter()), limits or Limits()
    try:
        if method == AUTO:
            result = automatic(case, prescription, RECTIFIERS.load, own, limits)
        else:
            result = RECTIFIERS.load(method)().rectify(case, prescription, own)
            check(result, result.held_out, limits)
    except RectifyError as error:
        if isinstance(error.rejected, Rectified):
            error.rejected = replace(error.rejected, image_passes=own.meter.image_passes)
        raise
    return replace(result, image_passes=own.meter.image_passes)

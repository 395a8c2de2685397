"""What lies behind a model version right now, cheaply: listed, not read.

A promotion compares this with what was listed before the bytes were scanned. The same function
serves store, worker and `promote`, or the two could never agree.
"""

import logging
import os
from dataclasses import dataclass

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate.listing import fingerprint_of, list_objects

# The server's own destination of `mlflow-artifacts:/`, then what its operator set.
_DESTINATIONS = ("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "MLFLOW_ARTIFACTS_DESTINATION")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A fingerprint, or why there is none."""

    fingerprint: str | None
    problem: str = ""


def artifacts_destination() -> str | None:
    """Return where this server (or the one beside this worker) keeps proxied artifacts."""
    return next((os.environ[name] for name in _DESTINATIONS if os.environ.get(name)), None)


def list_now(storage_location: str) -> Listing:
    """List a storage location; never raises: what cannot be listed has no fingerprint."""
    try:
        objects = list_objects(storage_location, destination=artifacts_destination())
    except GatekeeperError as error:
        return Listing(fingerprint=None, problem=error.message)
    except Exception as error:  # any listing that breaks is no listing
        logger.exception("listing %s failed", storage_location.split("?", 1)[0])
        return Listing(fingerprint=None, problem=f"listing failed: {type(error).__name__}")
    if not objects:
        return Listing(fingerprint=None, problem="there are no files")
    if not all(item.stamp for item in objects):
        return Listing(
            fingerprint=None,
            problem="its store tells no times of writing (set MLFLOW_ARTIFACTS_DESTINATION)",
        )
    return Listing(fingerprint=fingerprint_of(objects))

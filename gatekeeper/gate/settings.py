"""How this gate is set: policy and mode, from the environment (contract, section 8)."""

import os
from dataclasses import dataclass

from gatekeeper.errors import GateError
from gatekeeper.gate import db
from gatekeeper.gate.promotion import Mode
from gatekeeper.policy.schema import Policy, load_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Read once when the store starts: a changed policy needs a restart."""

    policy: Policy
    mode: Mode

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read `GATEKEEPER_POLICY` (file or name) and `GATEKEEPER_MODE` (else the policy's own).

        Raises:
            PolicySyntaxError: The policy does not load.
            GateError: The mode is none of the three.
        """
        policy = load_policy(os.environ.get("GATEKEEPER_POLICY") or None)
        mode = os.environ.get("GATEKEEPER_MODE") or policy.mode
        try:
            return cls(policy=policy, mode=Mode(mode.strip().lower()))
        except ValueError as error:
            raise GateError(
                f"GATEKEEPER_MODE is '{mode}', expected enforce, warn or audit",
                hint="unset it to take the policy's own mode",
            ) from error


def database_uri() -> str | None:
    """Return where the gate's tables are, None where nothing says so."""
    try:
        return db.database_uri()
    except GateError:
        return None

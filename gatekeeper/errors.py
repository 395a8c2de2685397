"""What can go wrong, as one tree.

GatekeeperError
├── IntakeError
│   ├── UnsafeFormatError        a file that would run code, or a malformed container
│   ├── DigestMismatchError      the bytes are not the bytes that were scanned
│   └── UnsupportedModelError    no CLIP in it, or its architecture is unknown
├── ScanError
│   ├── DetectorError
│   ├── OracleError
│   ├── ProbeError
│   └── BudgetExhaustedError     the image passes allowed are used up
├── PolicyError
│   ├── PolicySyntaxError
│   └── MissingMeasurementError
├── RectifyError
│   └── UtilityLostError
├── AttackError                  a planted backdoor does not fire
├── EvidenceError                evidence could not be written: no decision may be announced
├── ServiceError                 registry, database or evidence store is missing or failed
├── PluginError
├── MissingExtraError            a command needs an extra that is not installed
└── GateError
    ├── PendingDecisionError
    └── StaleDecisionError

Exit codes (contract, section 2) follow from the class: ServiceError and EvidenceError are 4, every
other GatekeeperError that reaches the terminal is 2.
"""

from typing import ClassVar


class GatekeeperError(Exception):
    """What happened, on which object, got and expected; `hint` says what to do next."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}"


class IntakeError(GatekeeperError):
    """A model could not be read."""


class UnsafeFormatError(IntakeError):
    """Reading this file would run code, or its container is malformed."""


class DigestMismatchError(IntakeError):
    """The bytes are not those that were scanned."""


class UnsupportedModelError(IntakeError):
    """No CLIP in it, or its architecture is not known."""


class ScanError(GatekeeperError):
    """A scan could not be carried out."""


class DetectorError(ScanError):
    """A detector failed."""


class OracleError(ScanError):
    """The oracle could not be built or gave no answer."""


class ProbeError(ScanError):
    """The images or labels handed to a scan cannot be used."""


class BudgetExhaustedError(ScanError):
    """The image passes that the caller allowed are used up."""


class PolicyError(GatekeeperError):
    """A policy cannot be used."""


class PolicySyntaxError(PolicyError):
    """The policy file does not say what a policy must say."""


class MissingMeasurementError(PolicyError):
    """A rule speaks of a measurement that no detector makes."""


class RectifyError(GatekeeperError):
    """No cleaned model could be made.

    `rejected` holds the result (a `Rectified`) that did not meet its limits, kept as evidence.
    """

    rejected: object | None = None


class UtilityLostError(RectifyError):
    """The cleaned model lost more accuracy than allowed."""


class AttackError(GatekeeperError):
    """No backdoor could be planted that fires and leaves clean answers alone."""


class EvidenceError(GatekeeperError):
    """Evidence could not be stored, so nothing may be announced."""

    exit_code = 4


class ServiceError(GatekeeperError):
    """Registry, database or evidence store is missing or failed."""

    exit_code = 4


class PluginError(GatekeeperError):
    """A plug-in is missing, named twice or fails to load."""


class MissingExtraError(GatekeeperError):
    """A command needs an extra that is not installed."""


class GateError(GatekeeperError):
    """The gate cannot answer."""


class PendingDecisionError(GateError):
    """No decision yet."""


class StaleDecisionError(GateError):
    """There was a decision, but bytes or policy have changed, or it has expired."""

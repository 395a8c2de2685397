"""The options that `scan` and `rectify` share, and the request they come to."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from gatekeeper.cli import options
from gatekeeper.types import Verdict

if TYPE_CHECKING:
    from gatekeeper.pipeline import ScanRequest
    from gatekeeper.policy.schema import Policy
    from gatekeeper.runtime import Runtime

EXIT_STATUS = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3}
FORMATS = ("table", "json", "sarif", "junit", "github")
_existing = click.Path(exists=True, path_type=Path)
_folder = click.Path(exists=True, file_okay=False, path_type=Path)

_OPTIONS = (
    click.option("--anchor", metavar="MODEL", help="Trusted base the suspect was made from."),
    click.option("--probes", type=_folder, help="Clean images; labels.csv is optional."),
    click.option("--suspect", "suspects", type=_folder, help="Images that may carry a trigger."),
    click.option("--labels", type=_existing, help="One label a line, or JSON with templates."),
    click.option(
        "--policy", "policy_file", metavar="FILE", help="Policy; default: the shipped one."
    ),
    click.option("--oracle", metavar="SPEC", help="regions, or sam:CHECKPOINT[:vit_b|l|h|t]."),
    click.option("--arch", metavar="NAME", help="open_clip name or open_clip_config.json."),
    click.option("--prompts", type=_existing, help="Learned context vectors beside the model."),
    options.device,
    click.option("--seed", type=int, default=None, help="Same seed, same report.  [default: 0]"),
    click.option("--budget", type=click.IntRange(min=1), help="Image passes allowed."),
    click.option(
        "--format", "output_format", type=click.Choice(FORMATS), default="table", show_default=True
    ),
    click.option("--no-mlflow", is_flag=True, help="Log no MLflow run."),
)


def scan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the contract's `scan` to `command`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanArguments:
    """What the user typed, before anything is fetched."""

    model: str
    anchor: str | None
    probes: Path | None
    suspects: Path | None
    labels: Path | None
    policy_file: str | None
    oracle: str | None
    arch: str | None
    prompts: Path | None
    device: str
    seed: int | None
    budget: int | None

    def policy(self) -> "Policy":
        """Return the policy: the file named, GATEKEEPER_POLICY, or the shipped default."""
        from gatekeeper.policy.schema import load_policy

        return load_policy(self.policy_file or os.environ.get("GATEKEEPER_POLICY"))

    def runtime(self, policy: "Policy") -> "Runtime":
        """Return the runtime: what the user typed, else what the policy says."""
        from gatekeeper.cli.progress import progress
        from gatekeeper.runtime import Runtime, tune_allocator

        tune_allocator()  # before torch is imported: 1.4 times faster on a CPU
        seed = self.seed if self.seed is not None else (policy.scan.seed or 0)
        return Runtime.on(self.device, seed, progress, self.budget or policy.scan.budget)

    @contextlib.contextmanager
    def request(self, policy: "Policy") -> "Iterator[ScanRequest]":
        """Yield the scan's request, models fetched into a folder that goes afterwards.

        The flags win over the policy's `scan` block.
        """
        from gatekeeper.gate.artifacts import fetch
        from gatekeeper.pipeline import ScanRequest

        wanted = policy.scan
        anchor = self.anchor or wanted.anchor
        with TemporaryDirectory(prefix="gatekeeper-") as folder:
            yield ScanRequest(
                model=fetch(self.model, Path(folder) / "model"),
                uri=self.model,
                policy=policy,
                anchor=fetch(anchor, Path(folder) / "anchor") if anchor else None,
                anchor_uri=anchor or "",
                probes=self.probes or (Path(wanted.probes) if wanted.probes else None),
                suspects=self.suspects,
                labels=self.labels or (Path(wanted.labels) if wanted.labels else None),
                oracle=self.oracle
                or wanted.oracle
                or os.environ.get("GATEKEEPER_ORACLE")
                or "regions",
                arch=self.arch or wanted.arch,
                prompts=self.prompts,
                detectors=tuple(wanted.detectors or ()),
                cache=home(),
            )


def home() -> Path:
    """Return GATEKEEPER_HOME: where caches and keys are kept."""
    default = Path.home() / ".cache" / "gatekeeper"
    return Path(os.environ.get("GATEKEEPER_HOME") or default)

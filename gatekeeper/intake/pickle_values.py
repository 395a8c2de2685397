"""What a pickle is made of, as data: nothing here can be called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Malformed(Exception):  # noqa: N818 - a verdict on bytes, always caught within intake
    """The bytes are not what they claim to be; the text says where and how."""


@dataclass(eq=False, slots=True)
class Global:
    """A name that unpickling would import. Here it is only a name."""

    module: str
    name: str

    @property
    def path(self) -> str:
        """The dotted name, for people and for the allow-list."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Built:
    """An object that unpickling would make: of which class, from what, with which state."""

    of: object  # Global, or another value where the pickle calls something odd
    arguments: tuple[Any, ...]
    called: bool  # True: a call (REDUCE), False: `__new__` alone (NEWOBJ)
    state: object = None
    has_state: bool = False
    items: list[Any] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The dotted name of what it is built of."""
        return self.of.path if isinstance(self.of, Global) else describe(self.of)


class Ordered(dict[Any, Any]):
    """An OrderedDict, with the attributes set on it (a state dict's `_metadata`)."""

    attributes: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A stretch of numbers kept outside the pickle."""

    key: str
    dtype: str  # safetensors' name: F32, BF16, …
    count: int  # elements
    offset: int = 0  # elements into the stored stretch (legacy views)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A tensor as torch would rebuild it: a strided window on a storage."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """A harmless value that only its name matters of: a dtype, a device, a numpy scalar."""

    what: str
    arguments: tuple[Any, ...] = ()


def describe(value: object) -> str:
    """Return a short name of any value, for messages."""
    if isinstance(value, Global):
        return value.path
    if isinstance(value, Built):
        inner = ", ".join(describe(a) for a in value.arguments[:3])
        of = value.of.path if isinstance(value.of, Global) else "the result of a call"
        return f"{of}({inner})"
    if isinstance(value, str | int | float | bool | None | bytes):
        return repr(value)[:60]
    return type(value).__name__


def is_module_like(value: object) -> bool:
    """Return whether `value` has the state of a `torch.nn.Module`."""
    return (
        isinstance(value, Built)
        and isinstance(value.state, Mapping)
        and isinstance(value.state.get("_modules"), Mapping)
        and isinstance(value.state.get("_parameters"), Mapping)
        and isinstance(value.state.get("_buffers"), Mapping)
    )

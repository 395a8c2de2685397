"""What the allow-listed calls of a checkpoint mean: our own words for torch's and numpy's helpers.

Exact names, each with a meaning of our own; nothing is imported and nothing real is called.
"""

from collections.abc import Callable
from typing import Any

from gatekeeper.intake.pickle_values import (
    Built,
    Global,
    Malformed,
    Ordered,
    Plain,
    Storage,
    TensorView,
)

# torch's storage classes and the numbers they hold (names of the safetensors format)
STORAGES = {
    "torch.FloatStorage": "F32",
    "torch.DoubleStorage": "F64",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "U8",
}
DTYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
WIDTHS = {
    "F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1,
    "BOOL": 1,
}  # fmt: skip


def call(function: Global, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Return (True, value) where `function` is on the list, (False, None) where it is not.

    Raises:
        Malformed: It is on the list and its arguments are not what torch writes.
    """
    meaning = _CALLS.get(function.path)
    if meaning is None:
        return False, None
    try:
        return True, meaning(*arguments)
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Malformed(f"{function.path} with arguments that it never has") from error


def persistent(identity: object) -> object:
    """Return what a persistent id names, as torch writes them: a storage, or a module's class.

    Raises:
        Malformed: It is no such id.
    """
    if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
        # before 1.6 torch kept a module's source text beside its class, for a warning
        _, kind, *source = identity
        if isinstance(kind, Global) and all(isinstance(s, str | None) for s in source):
            return kind
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Malformed("a persistent id that is no torch storage")
    kind, key, _, count = identity[1:5]
    if not isinstance(kind, Global) or kind.path not in STORAGES:
        raise Malformed("a storage of unknown type")
    view = identity[5] if len(identity) == 6 else None
    offset = 0
    if view is not None:
        if not isinstance(view, tuple) or len(view) != 3:
            raise Malformed("a storage view that torch does not write")
        _, offset, count = view
    if not isinstance(key, str) or not _natural(count) or not _natural(offset):
        raise Malformed("a storage with an odd key or size")
    return Storage(key=key, dtype=STORAGES[kind.path], count=count, offset=offset)


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> object:
    if not isinstance(storage, Storage) or not _natural(offset):
        raise Malformed("a tensor without a storage")
    sizes, steps = _sizes(shape), _sizes(stride)
    if len(sizes) != len(steps) or len(sizes) > 16:
        raise Malformed("a tensor whose shape and stride disagree")
    last = int(offset) + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True))  # type: ignore
    if 0 not in sizes and last >= storage.count:
        raise Malformed("a tensor that reaches beyond its storage")
    return TensorView(storage=storage, offset=int(offset), shape=sizes, stride=steps)  # type: ignore


def _tensor_v3(
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    _grad: object,
    _hooks: object,
    dtype: object,
    *_: object,
) -> object:
    if not isinstance(storage, Storage) or not isinstance(dtype, Global):
        raise Malformed("a tensor without a storage or dtype")
    name = DTYPES.get(dtype.path)
    if name is None:
        raise Malformed(f"a tensor of unknown dtype {dtype.path}")
    bytes_ = storage.count * WIDTHS[storage.dtype]
    typed = Storage(key=storage.key, dtype=name, count=bytes_ // WIDTHS[name])
    return _tensor(typed, offset, shape, stride)


def _from_type(function: object, kind: object, arguments: object, _state: object) -> object:
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise Malformed("a tensor subclass that torch does not write")
    if not isinstance(kind, Global) or kind.path not in _TENSOR_TYPES:
        raise Malformed(f"a tensor of type {getattr(kind, 'path', kind)}")
    if function.path not in _REBUILDERS:
        raise Malformed(f"a tensor rebuilt by {function.path}")
    return _REBUILDERS[function.path](*arguments)


def _parameter(tensor: object, *_: object) -> object:
    if not isinstance(tensor, TensorView):
        raise Malformed("a parameter that is no tensor")
    return tensor


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(_natural(n) for n in value):
        raise Malformed("a shape that is no tuple of sizes")
    return tuple(value)


def _ordered(pairs: object = ()) -> Ordered:
    if isinstance(pairs, dict):
        return Ordered(pairs)
    out = Ordered()
    for pair in pairs:  # type: ignore[attr-defined]
        key, value = pair
        out[hashable(key)] = value
    return out


def hashable(key: object) -> Any:
    """Return `key` if hashing it costs nothing and calls nothing.

    Raises:
        Malformed: It is a container of containers (hashing those can take forever) or unhashable.
    """
    if isinstance(key, tuple):
        if len(key) > 64 or any(isinstance(k, tuple | list | dict | set) for k in key):
            raise Malformed("a nested key")
        return key
    if isinstance(key, list | dict | set | bytearray):
        raise Malformed("an unhashable key")
    return key


def _members(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(values: object = ()) -> Any:
        if not isinstance(values, list | tuple | set | frozenset):
            raise Malformed("a set of something else than values")
        return kind(hashable(v) for v in values)

    return make


def _sequence(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(values: object = ()) -> Any:
        if not isinstance(values, list | tuple):
            raise Malformed("a sequence made of something else")
        return kind(values)

    return make


def _encode(text: object, codec: object = "latin1") -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise Malformed("_codecs.encode of something else than latin-1 text")
    return text.encode("latin-1")


def _plain(what: str) -> Callable[..., Plain]:
    def make(*arguments: object) -> Plain:
        return Plain(what, arguments)

    return make


def _partial(function: object, *arguments: object) -> Built:
    # inert until somebody calls it; what it would call is a mentioned name and judged as one
    return Built(Global("functools", "partial"), (function, *arguments), called=False)


_TENSOR_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_REBUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_REBUILDERS,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _sizes,
    "torch.device": _plain("torch.device"),
    "torch.serialization._get_layout": _plain("torch.layout"),
    "collections.OrderedDict": _ordered,
    "builtins.set": _members(set),
    "builtins.frozenset": _members(frozenset),
    "builtins.list": _sequence(list),
    "builtins.tuple": _sequence(tuple),
    "builtins.complex": _plain("complex"),
    "builtins.slice": _plain("slice"),
    "_codecs.encode": _encode,
    "functools.partial": _partial,
    "pathlib.PosixPath": _plain("path"),
    "pathlib.WindowsPath": _plain("path"),
    "pathlib.Path": _plain("path"),
    "numpy.dtype": _plain("numpy.dtype"),
    "numpy.core.multiarray.scalar": _plain("numpy.scalar"),
    "numpy._core.multiarray.scalar": _plain("numpy.scalar"),
    "numpy.core.multiarray._reconstruct": _plain("numpy.ndarray"),
    "numpy._core.multiarray._reconstruct": _plain("numpy.ndarray"),
}


def callable_name(path: str) -> bool:
    """Return whether the dotted name `path` is one that we interpret ourselves when called."""
    return path in _CALLS

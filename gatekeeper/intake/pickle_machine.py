"""Read a pickle without running it: a default-deny interpreter of its opcodes.

Nothing is imported and nothing is called. Every GLOBAL becomes a `Global`, every object a `Built`;
only names on the exact allow-list (`pickle_allowed`) are given a meaning, and that meaning is our
own. What a real unpickler would call is written down in `calls`. Anything that pickle itself never
writes (unknown opcodes, memo entries set twice, an object changed after the fact that is no object)
is `Malformed`.

Opcodes: Python's Lib/pickletools.py, protocols 0 to 5.
"""

import struct
from collections.abc import Callable
from typing import Any

from gatekeeper.intake import pickle_allowed as allowed
from gatekeeper.intake.pickle_values import Built, Global, Malformed, Ordered, Plain, describe

MAX_STEPS = 20_000_000  # a module of 10,000 tensors takes half a million
_MARK = object()


class Machine:
    """One pickle stream; `run` leaves the value, `calls` and `globals_` behind."""

    def __init__(
        self, data: bytes | memoryview, start: int = 0, *, torch_storages: bool = True
    ) -> None:
        self.data = memoryview(data)
        self.at = start
        self.torch_storages = torch_storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.calls: list[str] = []  # what unpickling would call, in order
        self.globals_: list[Global] = []
        self.built: list[Built] = []

    def run(self) -> Any:
        """Return the value that the pickle describes; `at` then points behind its STOP.

        Raises:
            Malformed: The bytes are no pickle that pickle would write. `calls` still holds what
                would have been called up to there.
        """
        for _ in range(MAX_STEPS):
            code = self._byte()
            if code == 0x2E:  # STOP
                if len(self.stack) != 1:
                    raise Malformed(f"{len(self.stack)} values on the stack at the end")
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise Malformed(f"opcode {code:#04x} at byte {self.at - 1}")
            step(self)
        raise Malformed(f"more than {MAX_STEPS} steps")

    # -- bytes ---------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        if count < 0 or self.at + count > len(self.data):
            raise Malformed(f"the stream ends within an opcode at byte {self.at}")
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, form: str) -> int:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(number)

    def _line(self) -> str:
        for length in range(1, 1 << 16):
            if self.at + length > len(self.data):
                break
            if self.data[self.at + length - 1] == 0x0A:
                return _text(bytes(self._take(length)[:-1]))
        raise Malformed(f"an endless line at byte {self.at}")

    # -- stack ---------------------------------------------------------------------------------

    def _push(self, value: object) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise Malformed(f"nothing to take off the stack at byte {self.at}")
        return self.stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._push(value)
        return value

    def _to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise Malformed(f"no mark on the stack at byte {self.at}")

    # -- memo ----------------------------------------------------------------------------------

    def _put(self, index: int) -> None:
        if index in self.memo or index < 0:
            raise Malformed(f"memo entry {index} is set twice")
        self.memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Malformed(f"memo entry {index} was never set")
        self._push(self.memo[index])

    # -- names and objects -----------------------------------------------------------------------

    def _global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("a global whose name is no text")
        if not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            raise Malformed(f"a global that no import can find: {module[:60]!r} {name[:60]!r}")
        found = allowed.canonical(module, name)
        self.globals_.append(found)
        self._push(found)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise Malformed("a call whose arguments are no tuple")
        self._push(self._call(function, arguments))

    def _call(self, function: object, arguments: tuple[Any, ...]) -> object:
        if isinstance(function, Global):
            rebuilt = _copyreg(function, arguments)
            if rebuilt is not None:
                return self._new(*rebuilt)
            known, value = allowed.call(function, arguments)
            if known:
                return self._kept(value)
            self.calls.append(function.path)
        else:
            self.calls.append(f"{describe(function)}(…)")
        return self._kept(Built(function, arguments, called=True))

    def _new(self, kind: object, arguments: object, keywords: object = None) -> object:
        if not isinstance(arguments, tuple):
            raise Malformed("a new object whose arguments are no tuple")
        if isinstance(kind, Global) and kind.path == "collections.OrderedDict" and not arguments:
            return Ordered()
        if not isinstance(kind, Global):
            self.calls.append(f"{describe(kind)}.__new__")
        elif arguments or keywords:
            # a class with arguments may do anything with them
            self.calls.append(f"{kind.path}.__new__ with arguments")
        return self._kept(Built(kind, arguments, called=False))

    def _kept(self, value: object) -> object:
        if isinstance(value, Built):
            self.built.append(value)
        return value

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Built):
            if target.has_state:
                raise Malformed(f"{target.path} is given its state twice")
            target.state, target.has_state = state, True
        elif isinstance(target, Plain):
            if target.what not in ("numpy.dtype", "numpy.ndarray"):
                raise Malformed(f"state for a {target.what}")
        elif isinstance(target, Ordered):
            target.attributes = state
        else:
            # setting attributes of a function, a class or a module changes the program itself
            self.calls.append(f"setattr on {describe(target)}")

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._top()
        if len(pairs) % 2:
            raise Malformed("a key without a value")
        couples = list(zip(pairs[::2], pairs[1::2], strict=True))
        if isinstance(target, dict):
            for key, value in couples:
                target[allowed.hashable(key)] = value
        else:
            self._method(target, "__setitem__", couples)

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        else:
            self._method(target, "append", items)

    def _add_items(self) -> None:
        items = self._to_mark()
        target = self._top()
        if isinstance(target, set):
            target.update(allowed.hashable(item) for item in items)
        else:
            self._method(target, "add", items)

    def _method(self, target: object, name: str, items: list[Any]) -> None:
        self.calls.append(f"{describe(target)}.{name}")
        if isinstance(target, Built):
            target.items.extend(items)

    def _instance(self, kind: object, arguments: list[Any]) -> None:
        # INST and OBJ call the class: nothing has written them since Python 2
        self._push(self._call(kind, tuple(arguments)))

    def _persistent(self, identity: object) -> None:
        if not self.torch_storages:
            raise Malformed("a persistent id outside a torch file")
        self._push(allowed.persistent(identity))

    def _frame(self) -> None:
        length = self._number("<Q")
        if self.at + length > len(self.data):
            raise Malformed("a frame that ends beyond the stream")

    def _dict(self, pairs: list[Any]) -> None:
        self._push({})
        self._set_items(pairs)


def _copyreg(function: Global, arguments: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]] | None:
    """Return (class, arguments) where `function` only makes an empty instance (protocols 0-2)."""
    if function.path == "copyreg.__newobj__" and arguments:
        return arguments[0], tuple(arguments[1:])
    if function.path == "copyreg._reconstructor" and len(arguments) == 3:
        kind, base, state = arguments
        if isinstance(base, Global) and base.path == "builtins.object" and state is None:
            return kind, ()
    return None


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error


def _digits(line: str) -> int:
    try:
        return int(line)
    except ValueError as error:  # also: more digits than Python converts
        raise Malformed("a number that is none") from error


def _int_line(line: str) -> object:
    if line in ("00", "01"):
        return line == "01"
    return _digits(line)


def _float_line(line: str) -> float:
    try:
        return float(line)
    except ValueError as error:
        raise Malformed("a number that is none") from error


def _string_line(line: str) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[0] not in "\"'":
        raise Malformed("a string without quotes")
    try:
        return line[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise Malformed("a string with a broken escape") from error


def _raw_unicode(line: str) -> str:
    try:
        return line.encode("latin-1", "backslashreplace").decode("raw_unicode_escape")
    except UnicodeDecodeError as error:
        raise Malformed("a string with a broken escape") from error


def _proto(machine: Machine) -> None:
    version = machine._byte()
    if version > 5:
        raise Malformed(f"pickle protocol {version}")


def _stack_global(machine: Machine) -> None:
    name, module = machine._pop(), machine._pop()
    machine._global(module, name)


def _new_object(machine: Machine) -> None:
    arguments, kind = machine._pop(), machine._pop()
    machine._push(machine._new(kind, arguments))


def _new_object_ex(machine: Machine) -> None:
    keywords, arguments, kind = machine._pop(), machine._pop(), machine._pop()
    machine._push(machine._new(kind, arguments, keywords))


def _set_item(machine: Machine) -> None:
    value, key = machine._pop(), machine._pop()
    machine._set_items([key, value])


def _append_one(machine: Machine) -> None:
    item = machine._pop()
    machine._append([item])


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        items = [machine._pop() for _ in range(count)]
        machine._push(tuple(reversed(items)))

    return step


def _sized(form: str, make: Callable[[bytes], object]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine._push(make(bytes(machine._take(machine._number(form)))))

    return step


def _object(machine: Machine) -> None:
    items = machine._to_mark()
    if not items:
        raise Malformed("an object without a class")
    machine._instance(items[0], items[1:])


def _inst(machine: Machine) -> None:
    arguments = machine._to_mark()
    machine._global(machine._line(), machine._line())
    machine._instance(machine._pop(), arguments)


def _pop_one(machine: Machine) -> None:
    if not machine.stack:
        raise Malformed("nothing to drop")
    machine.stack.pop()


def _little(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


_latin: Callable[[bytes], str] = lambda raw: raw.decode("latin-1")  # noqa: E731

_STEPS: dict[int, Callable[[Machine], object]] = {
    0x80: _proto,
    0x95: lambda m: m._frame(),
    ord("("): lambda m: m._push(_MARK),
    ord("0"): _pop_one,
    ord("1"): lambda m: m._to_mark(),
    ord("2"): lambda m: m._push(m._top()),
    ord("N"): lambda m: m._push(None),
    0x88: lambda m: m._push(True),
    0x89: lambda m: m._push(False),
    ord("I"): lambda m: m._push(_int_line(m._line())),
    ord("L"): lambda m: m._push(_digits(m._line().removesuffix("L"))),
    ord("F"): lambda m: m._push(_float_line(m._line())),
    ord("J"): lambda m: m._push(m._number("<i")),
    ord("K"): lambda m: m._push(m._byte()),
    ord("M"): lambda m: m._push(m._number("<H")),
    0x8A: _sized("<B", _little),
    0x8B: _sized("<i", _little),
    ord("G"): lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    ord("S"): lambda m: m._push(_string_line(m._line())),
    ord("T"): _sized("<i", _latin),
    ord("U"): _sized("<B", _latin),
    ord("B"): _sized("<I", bytes),
    ord("C"): _sized("<B", bytes),
    0x8E: _sized("<Q", bytes),
    0x96: _sized("<Q", bytearray),
    ord("V"): lambda m: m._push(_raw_unicode(m._line())),
    ord("X"): _sized("<I", _text),
    0x8C: _sized("<B", _text),
    0x8D: _sized("<Q", _text),
    ord("]"): lambda m: m._push([]),
    ord("l"): lambda m: m._push(m._to_mark()),
    ord("a"): _append_one,
    ord("e"): lambda m: m._append(m._to_mark()),
    ord(")"): lambda m: m._push(()),
    ord("t"): lambda m: m._push(tuple(m._to_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("}"): lambda m: m._push({}),
    ord("d"): lambda m: m._dict(m._to_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m._set_items(m._to_mark()),
    0x8F: lambda m: m._push(set()),
    0x90: lambda m: m._add_items(),
    0x91: lambda m: m._push(frozenset(allowed.hashable(i) for i in m._to_mark())),
    ord("p"): lambda m: m._put(_digits(m._line())),
    ord("q"): lambda m: m._put(m._byte()),
    ord("r"): lambda m: m._put(m._number("<I")),
    0x94: lambda m: m._put(len(m.memo)),
    ord("g"): lambda m: m._get(_digits(m._line())),
    ord("h"): lambda m: m._get(m._byte()),
    ord("j"): lambda m: m._get(m._number("<I")),
    ord("c"): lambda m: m._global(m._line(), m._line()),
    0x93: _stack_global,
    ord("i"): _inst,
    ord("o"): _object,
    ord("R"): lambda m: m._reduce(),
    0x81: _new_object,
    0x92: _new_object_ex,
    ord("b"): lambda m: m._build(),
    ord("P"): lambda m: m._persistent(m._line()),
    ord("Q"): lambda m: m._persistent(m._pop()),
}

"""Read a pickle without running it: a default-deny interpreter of its opcodes.

Nothing is imported and nothing is called. Every GLOBAL becomes a `Global`, every object a `Built`;
only names on the exact allow-list (`pickle_allowed`) are given a meaning, and that meaning is our
own. What a real unpickler would call is written down in `calls`. Anything that pickle itself never
writes (unknown opcodes, memo entries set twice, an object changed after the fact that is no object)
is `Malformed`.

Opcodes: Python's Lib/pickletools.py, protocols 0 to 5.
"""

import struct
from typing import Any

from gatekeeper.intake import pickle_calls as calls
from gatekeeper.intake.pickle_allowed import canonical
from gatekeeper.intake.pickle_values import Built, Global, Malformed, Ordered, Plain, describe

MAX_STEPS = 20_000_000  # a module of 10,000 tensors takes half a million
MARK = object()


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
        from gatekeeper.intake.pickle_opcodes import STEPS  # they speak of this class

        for _ in range(MAX_STEPS):
            code = self.byte()
            if code == 0x2E:  # STOP
                if len(self.stack) != 1:
                    raise Malformed(f"{len(self.stack)} values on the stack at the end")
                return self.pop()
            step = STEPS.get(code)
            if step is None:
                raise Malformed(f"opcode {code:#04x} at byte {self.at - 1}")
            step(self)
        raise Malformed(f"more than {MAX_STEPS} steps")

    # -- bytes ---------------------------------------------------------------------------------

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        if count < 0 or self.at + count > len(self.data):
            raise Malformed(f"the stream ends within an opcode at byte {self.at}")
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def byte(self) -> int:
        """Return the next byte."""
        return self.take(1)[0]

    def number(self, form: str) -> int:
        """Return the next number of struct `form`."""
        (number,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(number)

    def line(self) -> str:
        """Return the text up to the next newline."""
        for length in range(1, 1 << 16):
            if self.at + length > len(self.data):
                break
            if self.data[self.at + length - 1] == 0x0A:
                return decode(bytes(self.take(length)[:-1]))
        raise Malformed(f"an endless line at byte {self.at}")

    # -- stack ---------------------------------------------------------------------------------

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the top value off the stack."""
        if not self.stack or self.stack[-1] is MARK:
            raise Malformed(f"nothing to take off the stack at byte {self.at}")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top value."""
        value = self.pop()
        self.push(value)
        return value

    def to_mark(self) -> list[Any]:
        """Take everything down to the last mark off the stack."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise Malformed(f"no mark on the stack at byte {self.at}")

    # -- memo ----------------------------------------------------------------------------------

    def put(self, index: int) -> None:
        """Remember the top value under `index`."""
        if index in self.memo or index < 0:
            raise Malformed(f"memo entry {index} is set twice")
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        """Push what is remembered under `index`."""
        if index not in self.memo:
            raise Malformed(f"memo entry {index} was never set")
        self.push(self.memo[index])

    # -- names and objects -----------------------------------------------------------------------

    def name_(self, module: object, name: object) -> None:
        """Push a name that unpickling would import."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Malformed("a global whose name is no text")
        if not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            raise Malformed(f"a global that no import can find: {module[:60]!r} {name[:60]!r}")
        found = canonical(module, name)
        self.globals_.append(found)
        self.push(found)

    def reduce(self) -> None:
        """Note a call; push what it would return."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise Malformed("a call whose arguments are no tuple")
        self.push(self._call(function, arguments))

    def _call(self, function: object, arguments: tuple[Any, ...]) -> object:
        if isinstance(function, Global):
            rebuilt = _copyreg(function, arguments)
            if rebuilt is not None:
                return self.new(*rebuilt)
            known, value = calls.call(function, arguments)
            if known:
                return self._kept(value)
            self.calls.append(function.path)
        else:
            self.calls.append(f"{describe(function)}(…)")
        return self._kept(Built(function, arguments, called=True))

    def new(self, kind: object, arguments: object, keywords: object = None) -> object:
        """Return an object made without a call."""
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

    def build(self) -> None:
        """Give the top object its state."""
        state, target = self.pop(), self.top()
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

    def set_items(self, pairs: list[Any]) -> None:
        """Fill the dictionary on top."""
        target = self.top()
        if len(pairs) % 2:
            raise Malformed("a key without a value")
        couples = list(zip(pairs[::2], pairs[1::2], strict=True))
        if isinstance(target, dict):
            for key, value in couples:
                target[calls.hashable(key)] = value
        else:
            self._method(target, "__setitem__", couples)

    def append(self, items: list[Any]) -> None:
        """Fill the list on top."""
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        else:
            self._method(target, "append", items)

    def add_items(self) -> None:
        """Fill the set on top."""
        items = self.to_mark()
        target = self.top()
        if isinstance(target, set):
            target.update(calls.hashable(item) for item in items)
        else:
            self._method(target, "add", items)

    def _method(self, target: object, name: str, items: list[Any]) -> None:
        self.calls.append(f"{describe(target)}.{name}")
        if isinstance(target, Built):
            target.items.extend(items)

    def instance(self, kind: object, arguments: list[Any]) -> None:
        """Note the call of a class, as Python 2 wrote it."""
        # INST and OBJ call the class: nothing has written them since Python 2
        self.push(self._call(kind, tuple(arguments)))

    def persistent(self, identity: object) -> None:
        """Push what lies outside the pickle."""
        if not self.torch_storages:
            raise Malformed("a persistent id outside a torch file")
        self.push(calls.persistent(identity))

    def frame(self) -> None:
        """Check the length that a frame claims."""
        length = self.number("<Q")
        if self.at + length > len(self.data):
            raise Malformed("a frame that ends beyond the stream")

    def make_dict(self, pairs: list[Any]) -> None:
        """Push a dictionary of alternating keys and values."""
        self.push({})
        self.set_items(pairs)


def _copyreg(function: Global, arguments: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]] | None:
    """Return (class, arguments) where `function` only makes an empty instance (protocols 0-2)."""
    if function.path == "copyreg.__newobj__" and arguments:
        return arguments[0], tuple(arguments[1:])
    if function.path == "copyreg._reconstructor" and len(arguments) == 3:
        kind, base, state = arguments
        if isinstance(base, Global) and base.path == "builtins.object" and state is None:
            return kind, ()
    return None


def decode(raw: bytes) -> str:
    """Return text as pickle stores it.

    Raises:
        Malformed: It is not UTF-8.
    """
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Malformed("text that is not UTF-8") from error

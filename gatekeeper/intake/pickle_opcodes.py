"""What each pickle opcode does to our machine: protocols 0 to 5, and nothing else.

Source: Python's Lib/pickletools.py. EXT and out-of-band buffers are missing on purpose: no
checkpoint has them.
"""

import struct
from collections.abc import Callable

from gatekeeper.intake.pickle_calls import hashable
from gatekeeper.intake.pickle_machine import MARK, Machine, decode
from gatekeeper.intake.pickle_values import Malformed


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
    version = machine.byte()
    if version > 5:
        raise Malformed(f"pickle protocol {version}")


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name_(module, name)


def _new_object(machine: Machine) -> None:
    arguments, kind = machine.pop(), machine.pop()
    machine.push(machine.new(kind, arguments))


def _new_object_ex(machine: Machine) -> None:
    keywords, arguments, kind = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.new(kind, arguments, keywords))


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _append_one(machine: Machine) -> None:
    item = machine.pop()
    machine.append([item])


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(items)))

    return step


def _sized(form: str, make: Callable[[bytes], object]) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.push(make(bytes(machine.take(machine.number(form)))))

    return step


def _object(machine: Machine) -> None:
    items = machine.to_mark()
    if not items:
        raise Malformed("an object without a class")
    machine.instance(items[0], items[1:])


def _inst(machine: Machine) -> None:
    arguments = machine.to_mark()
    machine.name_(machine.line(), machine.line())
    machine.instance(machine.pop(), arguments)


def _pop_one(machine: Machine) -> None:
    if not machine.stack:
        raise Malformed("nothing to drop")
    machine.stack.pop()


def _little(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


_latin: Callable[[bytes], str] = lambda raw: raw.decode("latin-1")  # noqa: E731

STEPS: dict[int, Callable[[Machine], object]] = {
    0x80: _proto,
    0x95: lambda m: m.frame(),
    ord("("): lambda m: m.push(MARK),
    ord("0"): _pop_one,
    ord("1"): lambda m: m.to_mark(),
    ord("2"): lambda m: m.push(m.top()),
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("I"): lambda m: m.push(_int_line(m.line())),
    ord("L"): lambda m: m.push(_digits(m.line().removesuffix("L"))),
    ord("F"): lambda m: m.push(_float_line(m.line())),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("K"): lambda m: m.push(m.byte()),
    ord("M"): lambda m: m.push(m.number("<H")),
    0x8A: _sized("<B", _little),
    0x8B: _sized("<i", _little),
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("S"): lambda m: m.push(_string_line(m.line())),
    ord("T"): _sized("<i", _latin),
    ord("U"): _sized("<B", _latin),
    ord("B"): _sized("<I", bytes),
    ord("C"): _sized("<B", bytes),
    0x8E: _sized("<Q", bytes),
    0x96: _sized("<Q", bytearray),
    ord("V"): lambda m: m.push(_raw_unicode(m.line())),
    ord("X"): _sized("<I", decode),
    0x8C: _sized("<B", decode),
    0x8D: _sized("<Q", decode),
    ord("]"): lambda m: m.push([]),
    ord("l"): lambda m: m.push(m.to_mark()),
    ord("a"): _append_one,
    ord("e"): lambda m: m.append(m.to_mark()),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.to_mark())),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("}"): lambda m: m.push({}),
    ord("d"): lambda m: m.make_dict(m.to_mark()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.set_items(m.to_mark()),
    0x8F: lambda m: m.push(set()),
    0x90: lambda m: m.add_items(),
    0x91: lambda m: m.push(frozenset(hashable(i) for i in m.to_mark())),
    ord("p"): lambda m: m.put(_digits(m.line())),
    ord("q"): lambda m: m.put(m.byte()),
    ord("r"): lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    ord("g"): lambda m: m.get(_digits(m.line())),
    ord("h"): lambda m: m.get(m.byte()),
    ord("j"): lambda m: m.get(m.number("<I")),
    ord("c"): lambda m: m.name_(m.line(), m.line()),
    0x93: _stack_global,
    ord("i"): _inst,
    ord("o"): _object,
    ord("R"): lambda m: m.reduce(),
    0x81: _new_object,
    0x92: _new_object_ex,
    ord("b"): lambda m: m.build(),
    ord("P"): lambda m: m.persistent(m.line()),
    ord("Q"): lambda m: m.persistent(m.pop()),
}

"""The pickle opcodes of protocols 4 and 5, and the loop that runs them on a guarded machine.

Opcodes that these protocols do not write for data are refused: older opcodes, persistent ids, registered extensions.
Source: CPython, Lib/pickletools.py.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

from celery_partitions.model.guarded_pickle import Machine, Refused, name_of


def load_guarded(data: bytes, find: Callable[[str, str], Any], plain: frozenset[Any]) -> Any:
    """Load the object in an unsigned pickle. `find` and `plain` are as in `Machine`.

    Raises `Refused`, and what constructors and `find` raise.
    """
    machine = Machine(data, find, plain)
    try:
        return _run(machine)
    except (IndexError, struct.error) as error:
        raise Refused(f"the pickle is truncated or damaged near byte {machine.at}") from error


def _run(machine: Machine) -> Any:
    """Run the opcodes. Those of plain data are inlined, most frequent first, which is three times as fast as a call for each."""
    data, opcodes, memo, at, stack = machine.data, _OPCODES, machine.memo, 0, machine.stack
    size = len(data)
    while True:
        code = data[at]
        at += 1
        if code == _MEMOIZE:
            memo.append(stack[-1])
        elif code == _BINGET:
            stack.append(memo[data[at]])
            at += 1
        elif code == _SHORT_TEXT:
            start = at + 1
            at = start + data[at]
            if at > size:
                raise Refused("the pickle is truncated inside a text")
            stack.append(str(data[start:at], "utf-8", "surrogatepass"))
        elif code == _BININT1:
            stack.append(data[at])
            at += 1
        elif code == _BINFLOAT:
            stack.append(_DOUBLE(data, at)[0])
            at += 8
        elif code == _BININT2:
            stack.append(data[at] + 256 * data[at + 1])
            at += 2
        elif code == _LONG_BINGET:
            stack.append(memo[_FOUR_BYTES(data, at)[0]])
            at += 4
        elif code == _STOP:
            machine.at = at
            return stack.pop()
        else:
            machine.at = at
            opcodes[code](machine)
            at, stack = machine.at, machine.stack


def _unknown(machine: Machine) -> None:
    code = machine.data[machine.at - 1 : machine.at]
    raise Refused(
        f"the pickle has the opcode {code!r} at byte {machine.at - 1}, which protocols 4 and 5 do not write for data"
    )


def _protocol(machine: Machine) -> None:
    if machine.take(1)[0] not in (4, 5):
        raise Refused("the pickle is not of protocol 4 or 5")


def _frame(machine: Machine) -> None:
    machine.take(8)


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _integer(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(
        int.from_bytes(machine.take(machine.number(count)), "little", signed=True)
    )


def _text(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(str(machine.take(machine.number(count)), "utf-8", "surrogatepass"))


def _bytes(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.number(count)))


def _bytearray(machine: Machine) -> None:
    machine.stack.append(bytearray(machine.take(machine.number(8))))


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _empty_tuple(machine: Machine) -> None:
    machine.stack.append(())


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def run(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < count:
            raise Refused("the pickle takes more from its stack than is there")
        stack[-count:] = [tuple(stack[-count:])]

    return run


def _tuple(machine: Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(tuple(items))


def _empty_list(machine: Machine) -> None:
    machine.stack.append([])


def _empty_dict(machine: Machine) -> None:
    machine.stack.append({})


def _empty_set(machine: Machine) -> None:
    machine.stack.append(set())


def _frozenset(machine: Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(frozenset(items))


def _extend(machine: Machine, items: list[Any]) -> None:
    target = machine.target()
    cls = type(target)
    if cls is list:
        target += items
    elif (extend := getattr(cls, "extend", None)) is not None:
        extend(target, items)
    elif (append := getattr(cls, "append", None)) is not None:
        for item in items:
            append(target, item)
    else:
        raise Refused(f"the pickle appends to {name_of(target)}")


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    _extend(machine, [item])


def _appends(machine: Machine) -> None:
    items = machine.since_mark()
    _extend(machine, items)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put(machine.target(), key, value)


def _set_items(machine: Machine) -> None:
    items = machine.since_mark()
    target = machine.target()
    if len(items) % 2:
        raise Refused("the pickle has a key without a value")
    for at in range(0, len(items), 2):
        _put(target, items[at], items[at + 1])


def _put(target: Any, key: Any, value: Any) -> None:
    if type(key) is slice and not isinstance(target, dict):
        raise Refused(f"the pickle replaces a slice of {name_of(target)}")
    target[key] = value


def _add_items(machine: Machine) -> None:
    items = machine.since_mark()
    target = machine.target()
    cls = type(target)
    if cls is set:
        target.update(items)
    elif (add := getattr(cls, "add", None)) is not None:
        for item in items:
            add(target, item)
    else:
        raise Refused(f"the pickle adds to {name_of(target)}")


def _named(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Refused("the pickle names something with a value that is not a str")
    found = machine.find(module, name)
    machine.named[id(found)] = machine.shared[id(found)] = found
    machine.stack.append(found)


def _reduce(machine: Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, arguments))
    machine.remember_if_shared()


def _new_object(machine: Machine) -> None:
    arguments, cls = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.make(cls, arguments))
    machine.remember_if_shared()


def _new_object_with_keywords(machine: Machine) -> None:
    keywords, arguments, cls = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.make(cls, arguments, keywords))
    machine.remember_if_shared()


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    machine.build(machine.target(), state)


_STOP, _MEMOIZE, _BINGET, _LONG_BINGET = pickle.STOP[0], pickle.MEMOIZE[0], pickle.BINGET[0], pickle.LONG_BINGET[0]
_SHORT_TEXT, _BINFLOAT = pickle.SHORT_BINUNICODE[0], pickle.BINFLOAT[0]
_BININT1, _BININT2 = pickle.BININT1[0], pickle.BININT2[0]
_DOUBLE, _FOUR_BYTES = struct.Struct(">d").unpack_from, struct.Struct("<I").unpack_from
_HANDLERS: dict[bytes, Callable[[Machine], None]] = {
    pickle.PROTO: _protocol,
    pickle.FRAME: _frame,
    pickle.NONE: _constant(None),
    pickle.NEWTRUE: _constant(True),
    pickle.NEWFALSE: _constant(False),
    pickle.BININT: _integer,
    pickle.LONG1: _long(1),
    pickle.LONG4: _long(4),
    pickle.BINUNICODE: _text(4),
    pickle.BINUNICODE8: _text(8),
    pickle.SHORT_BINBYTES: _bytes(1),
    pickle.BINBYTES: _bytes(4),
    pickle.BINBYTES8: _bytes(8),
    pickle.BYTEARRAY8: _bytearray,
    pickle.MARK: _mark,
    pickle.POP: _pop,
    pickle.POP_MARK: _pop_mark,
    pickle.EMPTY_TUPLE: _empty_tuple,
    pickle.TUPLE1: _tuple_of(1),
    pickle.TUPLE2: _tuple_of(2),
    pickle.TUPLE3: _tuple_of(3),
    pickle.TUPLE: _tuple,
    pickle.EMPTY_LIST: _empty_list,
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.EMPTY_DICT: _empty_dict,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.EMPTY_SET: _empty_set,
    pickle.ADDITEMS: _add_items,
    pickle.FROZENSET: _frozenset,
    pickle.STACK_GLOBAL: _named,
    pickle.REDUCE: _reduce,
    pickle.NEWOBJ: _new_object,
    pickle.NEWOBJ_EX: _new_object_with_keywords,
    pickle.BUILD: _build,
}
_OPCODES: list[Callable[[Machine], None]] = [_HANDLERS.get(bytes([code]), _unknown) for code in range(256)]

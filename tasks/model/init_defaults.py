"""What a plain class sets in its `__init__` without the caller's arguments: the values for objects that were stored before it did.

The source of `__init__` is read, because it can't be called: its arguments are not stored.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any


def defaults_in_init(cls: type) -> dict[str, Callable[[], Any]]:
    """Attribute name → makes its value, for each `self.name = value` whose value needs at most parameters with a default.

    Assignments inside an `if`, a loop or another block are left out. Empty for a class without source code, and for one of the
    standard library.
    """
    found: dict[str, Callable[[], Any]] = {}
    if cls.__module__.partition(".")[0] in sys.stdlib_module_names:
        return found
    for base in reversed(cls.__mro__):
        function = vars(base).get("__init__")
        if isinstance(function, FunctionType):
            found |= _assigned(function)
    return found


def _assigned(function: FunctionType) -> dict[str, Callable[[], Any]]:
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        first, *parameters = inspect.signature(function).parameters.values()
    except (OSError, SyntaxError, TypeError, ValueError):  # no source, or no `self`
        return {}
    assert isinstance(tree, ast.FunctionDef)
    given = {one.name: one.default for one in parameters if one.default is not one.empty}
    unknown = {first.name, *(one.name for one in parameters)} - given.keys()
    unknown |= {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    found: dict[str, Callable[[], Any]] = {}
    for target, value in _assignments(tree.body):
        match target:
            case ast.Attribute(value=ast.Name(id=first.name), attr=name) if not unknown & {one.id for one in ast.walk(value) if isinstance(one, ast.Name)}:
                code = compile(ast.Expression(value), function.__code__.co_filename, "eval")
                found[name] = partial(_value, code, function.__globals__, given)
    return found


def _assignments(statements: list[ast.stmt]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Each target with its value. `a, b = 1, 2` counts as two."""
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(values):
                yield from zip(targets, values, strict=True)
            case ast.Assign(targets=targets, value=value):
                yield from ((target, value) for target in targets)


def _value(code: Any, names: dict[str, Any], given: Mapping[str, Any]) -> Any:
    return eval(code, {**names, **given})  # noqa: S307 - an expression of the user's own code

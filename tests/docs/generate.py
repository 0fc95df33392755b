"""`python -m tests.docs.generate`: write the parts of the guides that are generated from the code. `--check` only lists stale guides.

A guide marks such a part with `<!-- generated: NAME -->` and `<!-- end -->`. NAME is a key of `PARTS`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from tornado.web import URLSpec

import celery_partitions
from celery_partitions.admin.attention import RULES
from celery_partitions.admin.metrics import families
from celery_partitions.cli.commands import partitions
from celery_partitions.cli.settings import shown_value
from celery_partitions.dashboard.handlers import Action
from celery_partitions.dashboard.urls import HANDLERS
from celery_partitions.model.errors import PartitionError
from celery_partitions.worker.partition_state import TRANSITIONS, Event, State
from celery_partitions_config.settings import SETTINGS
from tests.docs.pages import page_name, page_paths

_PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table. The first row is its header."""
    head, *body = rows
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def settings_table() -> str:
    """Every setting."""
    rows = []
    for one in SETTINGS.values():
        default = shown_value(one, one.default)
        rows.append((f"`{one.variable}`", f"`{default}`" if default else "not set", one.used_by, one.help))
    return table(("variable", "default", "used by", "meaning"), *rows)


def first_sentences(text: str | None) -> str:
    """The first paragraph of a docstring or help text, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def commands() -> str:
    """Every command with its description and options."""
    rows = [
        (f"`{' '.join(words)}`", first_sentences(command.help), ", ".join(f"`{option}`" for option in _options(command)))
        for words, command in _leaves(partitions, [])
    ]
    return table(("`partitions …`", "does", "options"), *rows)


def _leaves(group: click.Group, before: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        words = [*before, name]
        if isinstance(command, click.Group):
            yield from _leaves(command, words)
        else:
            arguments = [one for one in command.params if isinstance(one, click.Argument)]
            yield [*words, *(one.make_metavar(context) for one in arguments)], command


def _options(command: click.Command) -> Iterator[str]:
    for one in command.params:
        if isinstance(one, click.Option) and not one.hidden:
            yield max(one.opts, key=len)


def metrics() -> str:
    """Every metric with its type and meaning."""
    rows = [
        (f"`{one.name}{'_total' if one.type == 'counter' else ''}`", one.type, one.documentation)
        for one in families("partition", None, {})
        if one.type != "untyped"
    ]
    return table(("name", "type", "meaning"), *rows)


def attention() -> str:
    """The rules of the attention list, in its order."""
    return table(("rule", "reports"), *((f"`{rule.name}`", rule.help) for rule in RULES))


def routes() -> str:
    """Every address of the JSON API, from the views and the docstrings of the handlers."""
    rows = []
    for spec in HANDLERS:
        assert isinstance(spec, URLSpec)
        path = spec.regex.pattern.removesuffix("$")
        if path.startswith("/api/"):
            method = "POST" if issubclass(spec.handler_class, Action) else "GET"
            path = path.replace("([0-9]+|ingress)", "PARTITION").replace("(.+)", "KEY").replace("(", "{").replace(")", "}")
            help_text = spec.kwargs["view"].help if spec.kwargs else first_sentences(spec.handler_class.__doc__)
            rows.append((method, f"`{path}`", _without_address(help_text)))
    return table(("method", "path", "answer"), *rows)


def _without_address(text: str) -> str:
    """Remove the address, which the docstring repeats before the colon."""
    if not re.match(r"(GET|POST) ", text):
        return text
    _address, colon, rest = text.partition(": ")
    return rest if colon else ""


def errors() -> str:
    """Every public exception with its public base classes and meaning."""
    rows = []
    for name in celery_partitions.__all__:
        one = getattr(celery_partitions, name) if name != "app" else None
        if isinstance(one, type) and issubclass(one, Exception):
            base = one.__mro__[1].__name__
            rows.append((f"`{name}`", f"`{base}`" if one is not PartitionError else "`Exception`", first_sentences(one.__doc__)))
    return table(("exception", "is a", "meaning"), *rows)


def partition_states() -> str:
    """The states of an owned partition, and the table of its transitions."""
    states = [(f"`{one.name.lower()}`", one.value) for one in State]
    rows = []
    for event in Event:
        nexts = [TRANSITIONS[state].get(event) for state in State]
        cells = ["" if to is None else "same" if to is state else to.name.lower() for state, to in zip(State, nexts, strict=True)]
        rows.append((event.value, *cells))
    return table(("state", "what holds, and what the worker does"), *states) + "\n\n" + table(
        ("what happens", *(f"`{one.name.lower()}`" for one in State)), *rows
    )


PARTS: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "commands": commands,
    "metrics": metrics,
    "attention": attention,
    "routes": routes,
    "errors": errors,
    "partition-states": partition_states,
}


def generated(text: str) -> str:
    """A page with up-to-date generated parts. Raises `KeyError` for an unknown part."""
    return _PART.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def stale() -> list[Path]:
    return [path for path in page_paths() if generated(path.read_text()) != path.read_text()]


def main() -> int:
    found = stale()
    if "--check" in sys.argv:
        for path in found:
            print(f"{page_name(path)} is stale: run make docs")
        return 1 if found else 0
    for path in found:
        path.write_text(generated(path.read_text()))
        print(f"wrote {page_name(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

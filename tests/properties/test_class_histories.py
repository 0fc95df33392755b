"""A state class changes at random: fields come and go, are renamed and converted; versions increase, the class is renamed. A state that was
stored at any time is read by any later code as a model says, and by earlier code only if its version is not newer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_partitions.model.errors import StateError
from celery_partitions.store.codec import StateCodec
from tests.model.classes_in_time import code_in_time

FIELDS = ("a", "b", "c", "d")
KINDS = {
    "plain": ("class {name}:\n    def __init__(self):\n        pass\n", "        self.{field} = {value}\n"),
    "dataclass": ("@dataclass\nclass {name}:\n    always: int = 0\n", "    {field}: int = {value}\n"),
    "slots": ("@dataclass(slots=True)\nclass {name}:\n    always: int = 0\n", "    {field}: int = {value}\n"),
    "msgspec": ("class {name}(msgspec.Struct):\n    always: int = 0\n", "    {field}: int = {value}\n"),
    "pydantic": ("class {name}(pydantic.BaseModel):\n    always: int = 0\n", "    {field}: int = {value}\n"),
    "attrs": ("@attrs.define\nclass {name}:\n    always: int = 0\n", "    {field}: int = {value}\n"),
}


@dataclass
class Release:
    """The class at one time. `change`: what the migration to its version does, as code and as a function."""

    name: str
    version: int
    fields: dict[str, int]
    formerly: list[str] = field(default_factory=list)
    migrations: dict[int, list[str]] = field(default_factory=dict)

    def source(self, kind: str) -> str:
        head, line = KINDS[kind]
        lines = [f"@state(version={self.version}, formerly={['tests.model.code_in_time.' + name for name in self.formerly]!r})\n"]
        lines += [head.format(name=self.name), *(line.format(field=name, value=value) for name, value in self.fields.items())]
        for version, body in self.migrations.items():
            lines.append(f"@migrates({self.name}, to_version={version})\ndef to_{version}(old):\n")
            lines += [f"    {one}\n" for one in [*body, "return old"]]
        return "".join(lines)


@st.composite
def histories(draw: st.DrawFn) -> list[Release]:
    """The releases of one class, in order."""
    releases = [Release("Class0", 1, {name: draw(st.integers(0, 9)) for name in draw(st.sets(st.sampled_from(FIELDS)))})]
    for number in range(1, draw(st.integers(2, 5))):
        last = releases[-1]
        new = Release(last.name, last.version, dict(last.fields), list(last.formerly), {v: list(body) for v, body in last.migrations.items()})
        releases.append(new)
        if draw(st.booleans()):
            new.formerly.append(new.name)
            new.name = f"Class{number}"
        there, free = list(new.fields), [name for name in FIELDS if name not in new.fields]
        changes = ["add"] * bool(free) + ["drop", "convert"] * bool(there) + ["rename"] * bool(there and free)
        change = draw(st.sampled_from([*changes, "nothing"]))
        if change == "add":  # needs no version
            new.fields[draw(st.sampled_from(free))] = draw(st.integers(0, 9))
        elif change in ("drop", "convert", "rename"):
            new.version += 1
            one = draw(st.sampled_from(there))
            body = new.migrations[new.version] = []
            if change == "drop":
                del new.fields[one]
                body.append(f"old.pop({one!r}, None)")
            elif change == "convert":
                body.append(f"if {one!r} in old: old[{one!r}] *= 10")
            else:
                other = draw(st.sampled_from(free))
                new.fields[other] = new.fields.pop(one)
                body.append(f"if {one!r} in old: old[{other!r}] = old.pop({one!r})")
    return releases


def expected(stored: dict[str, int], since: Release, now: Release) -> dict[str, int]:
    """The model: what later code makes of a state's fields."""
    old: dict[str, Any] = dict(stored)
    for version in range(since.version + 1, now.version + 1):
        exec("\n".join(now.migrations[version]), {"old": old})
    return {**now.fields, **{name: value for name, value in old.items() if name in now.fields}}


@pytest.mark.parametrize("kind", KINDS)
@given(histories(), st.data())
@settings(max_examples=40)
def test_every_later_release_reads_what_an_earlier_one_wrote(kind: str, releases: list[Release], data: st.DataObject) -> None:
    keys = data.draw(st.sampled_from([(), (b"0123456789abcdef",)]))
    written: list[tuple[Release, dict[str, int], bytes]] = []
    with code_in_time() as code:
        for now in releases:
            here, codec = code.at(now.source(kind), state=now.name), StateCodec(keys)
            assert here.state is not None
            for since, fields, stored in list(written):
                state = codec.load(here, "key", stored)
                values = {name: getattr(state, name) for name in now.fields}
                assert values == expected(fields, since, now)
                written.append((now, values, codec.dump(here, "key", state)))
            fresh = here.state.new()
            for name in now.fields:
                setattr(fresh, name, data.draw(st.integers(0, 99)))
            written.append((now, {name: getattr(fresh, name) for name in now.fields}, codec.dump(here, "key", fresh)))
        first = code.at(releases[0].source(kind), state=releases[0].name)
        for since, _, stored in written:
            if since.version > 1:
                with pytest.raises(StateError, match="Newer code wrote it"):
                    StateCodec(keys).load(first, "key", stored)

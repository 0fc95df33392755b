"""The hand-written lists in the guides match the code."""

from __future__ import annotations

import re
import tomllib

import msgspec

from celery_partitions.dashboard import actions
from celery_partitions.store import names
from tests.docs.pages import page_paths
from tests.support.worker import ROOT

#: How the code writes the reason of a dead letter: as an argument of that name, or directly after the raw message.
_REASON = re.compile(r"\breason(?:: str)? ?= ?\"([a-z-]+)\"|\braw, \"([a-z-]+)\"|Verdict\(\"([a-z-]+)\"|item, \"([a-z]+-[a-z-]+)\"")


def test_the_guide_lists_every_reason_of_a_dead_letter() -> None:
    lines = (line for path in (ROOT / "tasks").rglob("*.py") for line in path.read_text().splitlines())
    code = "\n".join(line for line in lines if "ParkedKey(" not in line)  # a parked key has other reasons
    reasons = {next(filter(None, found)) for found in _REASON.findall(code)}
    guide = (ROOT / "tasks/model/README.md").read_text()
    table = guide[guide.index("## Dead letters") : guide.index("## Errors")]
    listed = set(re.findall(r"`([a-z-]+)`", table)) - {"eta", "expires"}
    assert reasons == listed


def test_the_redis_keys_in_the_guide_exist() -> None:
    guide = (ROOT / "tasks/store/README.md").read_text()
    named = set(re.findall(r"`\{(?:partition|partition\.3)\}:([a-z]+)", guide))
    assert named and named <= set(re.findall(r"^\{partition(?:\.3)?\}:([a-z]+)", names.__doc__ or "", re.MULTILINE))


def test_every_extra_in_the_guides_exists() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    text = "\n".join(path.read_text() for path in page_paths())
    named = {one for found in re.findall(r"celery-partitions\[([a-z,]+)\]", text) for one in found.split(",")}
    assert named <= extras


def test_the_guide_lists_every_field_that_a_request_may_have() -> None:
    guide = (ROOT / "tasks/dashboard/README.md").read_text()
    table = guide[guide.index("Bodies of POST requests") : guide.index("An error is")]
    bodies = [one for one in vars(actions).values() if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    fields = {name for body in bodies for name in body.__struct_fields__}
    assert set(re.findall(r'"([a-z0-9_]+)"', table)) == fields


def test_the_table_of_folders_has_the_order_of_the_import_contract() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    place = {name.rpartition(".")[2]: number for number, layer in enumerate(contract) for name in re.findall(r"[\w.]+", layer)}
    guide = (ROOT / "tasks/README.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", guide[guide.index("## Folders") : guide.index("## Where")], re.MULTILINE)
    folders = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(folders, key=lambda name: place[name]) == folders
    assert {path.parent.name for path in (ROOT / "tasks").glob("*/__init__.py")} == set(folders)

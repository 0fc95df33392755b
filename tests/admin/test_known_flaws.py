"""Server versions with a flaw that lets a client run code, and the doctor's warning."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.admin.doctor import judge_flaws
from celery_partitions.admin.known_flaws import REDIS, VALKEY, flaws_of
from celery_partitions.store.server import look_at_server
from tests.admin.test_doctor import of
from tests.support.server import RedisServer


def info(server: str, version: str) -> dict[str, str]:
    return {"redis_version": version} if server == "redis" else {"redis_version": "7.2.4", "valkey_version": version}


@pytest.mark.parametrize(
    ("server", "version", "advisories"),
    [
        ("redis", "8.6.2", ["July 2026", "CVE-2026-23479"]),
        ("redis", "8.6.3", ["July 2026"]),
        ("redis", "8.6.5", []),
        ("redis", "8.8.0", ["July 2026"]),
        ("redis", "8.8.1", []),
        ("redis", "9.0.0", []),
        ("redis", "8.2.1", ["July 2026", "CVE-2026-23479", "CVE-2025-49844"]),
        ("redis", "8.2.2", ["July 2026", "CVE-2026-23479"]),
        ("redis", "8.4.0", ["July 2026", "CVE-2026-23479"]),
        ("redis", "8.0.9", ["July 2026", "CVE-2026-23479"]),
        ("redis", "7.0.15", ["July 2026", "CVE-2026-23479", "CVE-2025-49844"]),
        ("redis", "7.4.10", []),
        ("redis", "7.2.15", []),
        ("redis", "6.2.19", ["July 2026", "CVE-2026-23479", "CVE-2025-49844"]),
        ("redis", "6.2.23", []),
        ("valkey", "9.1.0", ["CVE-2026-63639"]),
        ("valkey", "9.1.1", []),
        ("valkey", "9.0.3", ["CVE-2026-63639", "CVE-2026-23479"]),
        ("valkey", "8.1.3", ["CVE-2026-63639", "CVE-2026-23479", "CVE-2025-49844"]),
        ("valkey", "8.0.10", []),
        ("valkey", "9.2.0-rc1", []),
        ("redis", "unstable", []),
        ("redis", "", []),
    ],
)
def test_which_versions_have_which_flaws(server: str, version: str, advisories: list[str]) -> None:
    found = flaws_of(info(server, version))
    assert len(found) == len(advisories)
    assert all(name in flaw.advisories for name, flaw in zip(advisories, found, strict=True))


def test_the_doctor_names_the_advisory_and_the_versions_that_are_fixed() -> None:
    check = judge_flaws(info("redis", "7.2.10"))
    assert check.verdict == "warn"
    assert "CVE-2025-49844" in check.text and "7.2.15" in check.text and "Redis 7.2.10" in check.text
    assert judge_flaws(info("valkey", "9.1.1")).verdict == "ok"


@pytest.mark.parametrize("flaws", [REDIS, VALKEY])
def test_later_fixes_are_in_later_releases(flaws: tuple[object, ...]) -> None:
    """The doctor names the first entry's versions as the fix, so they must contain all other fixes."""
    newest, *older = flaws
    for flaw in older:
        for line, patch in flaw.fixed.items():  # type: ignore[attr-defined]
            assert newest.fixed.get(line, patch + 1) > patch  # type: ignore[attr-defined]


def test_a_valkey_without_its_lua_module_is_refused_with_what_to_do(server_factory: Callable[..., RedisServer]) -> None:
    server = server_factory(config={"enable-module-command": "yes"})
    with server.client() as client:
        if "valkey_version" not in client.info():
            pytest.skip("only Valkey has Lua in a module")
        assert "scripts" not in {finding.subject for finding in look_at_server(client)}
        client.execute_command("MODULE", "UNLOAD", "lua")
        (finding,) = (finding for finding in look_at_server(client) if finding.subject == "scripts")
        assert finding.refuse and "Load the module lua" in finding.text
        check = of(server)["scripts"]
        assert check.verdict == "bad" and "Load the module lua" in check.text

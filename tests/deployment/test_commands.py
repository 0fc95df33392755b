"""The Procfile and docker-compose.yml parse, and name the same commands."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile

ROOT = Path(__file__).parents[2]
#: A process of the Procfile → the equivalent service of docker-compose.yml.
SERVICES = {"web": "flower", "worker": "worker"}


@pytest.fixture
def procfile() -> dict[str, str]:
    return dict(parse_procfile((ROOT / "Procfile").read_text()).processes)


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def in_shell(line: str, **environment: str) -> list[str]:
    """The arguments into which a shell splits a command line."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"printf '%s\\n' {line}"], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_procfile_has_a_worker_and_a_web_process(procfile: dict[str, str]) -> None:
    assert procfile.keys() == SERVICES.keys()


def test_compose_runs_the_commands_of_the_procfile(procfile: dict[str, str], compose: dict[str, Any]) -> None:
    commands = {name: compose["services"][service]["command"] for name, service in SERVICES.items()}
    assert commands == procfile


def test_the_commands_run_the_configured_app(procfile: dict[str, str]) -> None:
    for line in procfile.values():
        assert in_shell(line, APP="shop.orders")[:3] == ["celery", "-A", "shop.orders"]


@pytest.mark.parametrize("environment", [{}, {"APP": ""}], ids=["unset", "empty"])
def test_without_an_app_no_process_starts_and_one_line_names_the_variable_to_set(
    procfile: dict[str, str], environment: dict[str, str]
) -> None:
    """The platform's shell refuses the command. Compose refuses the same syntax with the same message."""
    for line in procfile.values():
        ended = subprocess.run(["/bin/sh", "-c", line], env=environment, capture_output=True, text=True)
        assert ended.returncode != 0
        assert ended.stdout == ""
        (line,) = ended.stderr.splitlines()
        assert line.endswith("APP: set it to the module of your Celery app, for example APP=shop.orders")


def test_flower_listens_on_the_port_that_the_platform_gives(procfile: dict[str, str]) -> None:
    assert "--port=5555" in in_shell(procfile["web"], APP="shop.orders")
    assert "--port=8080" in in_shell(procfile["web"], APP="shop.orders", PORT="8080")
    assert "--address=0.0.0.0" in in_shell(procfile["web"], APP="shop.orders")


def test_every_service_has_a_health_check(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "healthcheck" not in service] == []


def test_redis_runs_with_the_projects_configuration(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    (mount,) = (volume for volume in redis["volumes"] if volume.startswith("./"))
    source, target, mode = mount.split(":")
    assert (ROOT / source).is_file()
    assert target in shlex.split(redis["command"])
    assert mode == "ro"


@pytest.mark.parametrize("service", SERVICES.values())
def test_the_image_is_built_from_existing_files(compose: dict[str, Any], service: str) -> None:
    dockerfile = compose["services"][service]["build"]["dockerfile_inline"]
    copies = (line.split()[1:-1] for line in dockerfile.splitlines() if line.startswith("COPY "))
    assert [name for names in copies for name in names if not (ROOT / name).exists()] == []

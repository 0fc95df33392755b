"""Where settings come from, which variables count, and which process a wrong setting stops."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_partitions.runtime.registry import installation_of
from celery_partitions_config.resolution import from_environment, misspelt, resolve
from celery_partitions_config.settings import SETTINGS, Settings, SettingsError
from tests.producer.conftest import MakeApp, make_app

__all__ = ["make_app"]

URL = "redis://127.0.0.1:1/0"
WORKERS_ONLY = [one for one in SETTINGS.values() if one.used_by == "workers" and one.parse is not str]
#: Variables that a host may have for other purposes.
GARBAGE = ("%(message)s", "jaeger", "tcp://10.0.0.1:9090")
WORKERS_VARIABLES = {one.variable for one in WORKERS_ONLY}
#: Every parser refuses this.
NONSENSE = "'?"


def used(app: Celery) -> Settings:
    installation = installation_of(app)
    assert installation is not None
    return installation.settings


@pytest.mark.parametrize("how_many", range(4))
def test_the_order_is_code_environment_app_configuration_default(
    how_many: int, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    if how_many > 0:
        app.conf.partitions_lease_seconds = 11
    if how_many > 1:
        monkeypatch.setenv("PARTITIONS_LEASE_SECONDS", "12")
    make_app(app, Settings(lease_seconds=5.0) if how_many > 2 else Settings(batch_bytes=7))
    assert used(app).lease_seconds == (5.0, 11.0, 12.0, 5.0)[how_many]
    assert used(app).batch_bytes == (4_000_000 if how_many > 2 else 7)


def test_djangos_settings_in_celerys_namespace_are_read_as_app_configuration(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARTITIONS")
    django = types.SimpleNamespace(
        CELERY_BROKER_URL=URL, CELERY_PARTITIONS=3, CELERY_PARTITIONS_LEASE_SECONDS=10, CELERY_PARTITIONS_STATE_MODULES=["shop", "bank.*"],
        CELERY_PARTITIONS_REDIS_TLS_VERIFY=False, CELERY_PARTITIONS_METRICS_PORT=None, PARTITIONS_GROUP="not in the namespace",
    )  # fmt: skip
    app = Celery("shop", set_as_current=False)
    app.config_from_object(django, namespace="CELERY")
    make_app(app, None)
    assert used(app) == Settings(redis_url=URL, partitions=3, lease_seconds=10, state_modules=("shop", "bank.*"), redis_tls_verify=False)


def test_the_error_of_an_invalid_app_configuration_value_has_its_name_there(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARTITIONS")
    app = make_app(Celery("shop", broker=URL, set_as_current=False, partitions=0), None)
    with pytest.raises(SettingsError, match=r"^partitions='0' is not valid: expected an integer from 1 to 4096$"):
        used(app)


def test_messages_wait_for_a_task_at_least_until_workers_know_each_others_tasks() -> None:
    for seconds in ("0", "2", "300"):
        assert from_environment({"PARTITIONS_DEPLOY_WAIT_SECONDS": seconds, "PARTITIONS_LEASE_SECONDS": "6"}).deploy_wait_seconds == float(seconds)
    with pytest.raises(SettingsError, match=r"^PARTITIONS_DEPLOY_WAIT_SECONDS=1.9 is not valid: .* at least a third of PARTITIONS_LEASE_SECONDS \(6 s\)"):
        from_environment({"PARTITIONS_DEPLOY_WAIT_SECONDS": "1.9", "PARTITIONS_LEASE_SECONDS": "6"})


def test_only_two_variables_have_no_prefix() -> None:
    names = {one.variable for one in SETTINGS.values()}
    assert {name for name in names if not name.startswith("PARTITIONS_")} == {"REDIS_URL", "PARTITIONS"}


@pytest.mark.parametrize("text", GARBAGE)
def test_unrelated_variables_of_the_host_change_nothing(text: str) -> None:
    short = {one.variable.removeprefix("PARTITIONS_"): text for one in SETTINGS.values()} | {one.field.upper(): text for one in SETTINGS.values()}
    kubernetes = dict.fromkeys(["PARTITIONS_PORT", "PARTITIONS_SERVICE_HOST", "PARTITIONS_SERVICE_PORT", "PARTITIONS_PORT_80_TCP"], text)
    environ = {**short, **kubernetes, "PARTITION_GROUP": text}
    del environ["REDIS_URL"], environ["PARTITIONS"], environ["PARTITIONS_URL"]  # these are ours
    assert from_environment(environ) == Settings()
    code = "import celery_partitions as c; c.app.finalize(); from celery_partitions.runtime.registry import installation_of; print(installation_of(c.app).settings)"
    assert python(code, environ).strip() == repr(Settings(redis_url=os.environ["REDIS_URL"], partitions=4))


@pytest.mark.parametrize("one", WORKERS_ONLY, ids=lambda one: one.field)
def test_a_wrong_worker_setting_stops_workers_and_not_producers(one: Any) -> None:
    resolved = resolve(environ={one.variable: NONSENSE})
    assert getattr(resolved.check("producers"), one.field) == one.default
    with pytest.raises(SettingsError, match=f"^{one.variable}="):
        resolved.check("workers")
    with pytest.raises(SettingsError, match=f"^{one.variable}="):
        from_environment({one.variable: NONSENSE})


def test_a_producer_sends_and_a_worker_refuses_with_one_line(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from celery_partitions import app, computation\n@computation('f', key=str)\ndef f(word: str) -> None: ...\n"
    )
    environ = {"REDIS_URL": redis_url} | dict.fromkeys(WORKERS_VARIABLES, NONSENSE)
    python("import shop; shop.f.delay('a'); shop.f.send_many(['b'], progress=False)", environ, tmp_path)
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker"]
    worker = subprocess.run(command, cwd=tmp_path, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)
    assert worker.returncode == 1
    assert worker.stderr.strip().splitlines()[-1].startswith("Error: PARTITIONS_")
    assert "Traceback" not in worker.stderr


def test_a_wrong_flower_setting_stops_only_flower() -> None:
    resolved = resolve(environ={"PARTITIONS_DASHBOARD_HOSTS": "http://flower.example.com"})
    assert resolved.check("workers").dashboard_hosts == ()
    with pytest.raises(SettingsError, match=r"^PARTITIONS_DASHBOARD_HOSTS="):
        resolved.check("dashboard")


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("PARTITIONS_TRACING", "jaeger", "expected 1 or 0"),
        ("PARTITIONS", "four", "expected an integer"),
        ("PARTITIONS", "5000", "expected an integer from 1 to 4096"),
        ("PARTITIONS_LEASE_SECONDS", "0", "expected a number greater than 0"),
        ("PARTITIONS_LEASE_SECONDS", "-1", "expected a number greater than 0, at most"),
        ("PARTITIONS_LEASE_SECONDS", "soon", "expected a number"),
        ("PARTITIONS_LOG_FORMAT", "%(message)s", "expected text or json"),
        ("PARTITIONS_GROUP", "a b", "expected letters, digits, - and _ only"),
        ("PARTITIONS_METRICS_PORT", "tcp://10.0.0.1:9090", "expected an integer. Kubernetes sets this variable"),
    ],
)
def test_an_error_has_the_variable_the_value_and_what_is_expected(variable: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment({variable: text})
    assert str(caught.value).startswith(f"{variable}='{text}' is not valid: {says}")


def test_a_misspelt_variable_is_found_and_a_foreign_one_is_not() -> None:
    assert misspelt({"PARTITIONS_LEASE_SECOND": "", "PARTITION_GROUP": "", "PARTITIONS_BATCH_MESAGES": ""}) == {
        "PARTITIONS_LEASE_SECOND": "PARTITIONS_LEASE_SECONDS",
        "PARTITION_GROUP": "PARTITIONS_GROUP",
        "PARTITIONS_BATCH_MESAGES": "PARTITIONS_BATCH_MESSAGES",
    }
    assert misspelt(dict.fromkeys([*(one.variable for one in SETTINGS.values()), "LEASE_SECOND", "PARTITIONS_PORT", "PARTITIONS_SERVICE_HOST"], "")) == {}


def test_a_misspelt_name_in_the_apps_configuration_is_found() -> None:
    names = ["partitions_lease_second", "partition_batch_messages", "partitions_lease_seconds", "partitions", "broker_url", "partitions_of_us"]
    assert misspelt({}, names) == {"partitions_lease_second": "partitions_lease_seconds", "partition_batch_messages": "partitions_batch_messages"}


def test_a_copy_is_equal_and_replace_accepts_every_field() -> None:
    made = Settings(lease_seconds=7)
    assert made.given == {"lease_seconds"}
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert replace(made, partitions=2) == Settings(lease_seconds=7, partitions=2)
    assert SETTINGS.keys() < replace(made, partitions=2).given


def python(code: str, environ: dict[str, str], folder: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **environ}, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"partitions": "4"}, "partitions='4' is not valid: expected an integer"),
        ({"lease_seconds": "10"}, "lease_seconds='10' is not valid: expected a number"),
        ({"batch_messages": True}, "batch_messages=True is not valid: expected an integer"),
        ({"redis_tls_verify": 1}, "redis_tls_verify=1 is not valid: expected True or False"),
    ],
)
def test_a_value_of_another_type_in_code(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=f"^{says}$"):
        Settings(**given)


@pytest.mark.parametrize("command", ["worker", "partitions status"])
def test_a_command_says_in_one_line_which_variable_is_not_valid(command: str) -> None:
    arguments = [sys.executable, "-m", "celery", "-A", "celery_partitions", *command.split()]
    done = subprocess.run(arguments, env={**os.environ, "PARTITIONS": "abc"}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: PARTITIONS='abc' is not valid: expected an integer\n"

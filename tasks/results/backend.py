"""Checks that results can be part of a commit: the app's result backend must be the broker's own Redis database."""

from __future__ import annotations

import redis
from celery.backends.redis import RedisBackend

from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import SERVER_ERRORS


def why_not_own_backend(installation: Installation) -> str | None:
    """Why results cannot be part of commits in the broker's Redis; None if they can. May ask both servers for their ids."""
    backend = installation.app.backend
    if not isinstance(backend, RedisBackend):
        name = backend.as_uri() or type(backend).__name__
        what = "the app has no result backend" if name == "disabled://" else f"the app's result backend is {name}"
        return f"{what}; the results of computations are written by their commits, so they must be in the broker's Redis"
    client = installation.group.client
    mine = client.connection_pool.connection_kwargs
    theirs = backend.client.connection_pool.connection_kwargs
    text = f"the result backend {backend.as_uri()} is not the database of the broker"
    if int(mine.get("db") or 0) != int(theirs.get("db") or 0):
        return text
    places = [(one.get("host"), one.get("port"), one.get("path")) for one in (mine, theirs)]
    if places[0] == places[1] and any(places[0]):
        return None
    here = _run_id(client)
    try:
        there = _run_id(backend.client)
    except SERVER_ERRORS as error:  # the broker's server did answer above
        return f"{text}: it does not answer ({error})"
    return None if here == there else text


def check_backend(installation: Installation) -> None:
    """Raise `SetupError` if a computation is declared with `reply=True` and its results cannot be part of a commit."""
    replying = sorted(name for name, one in installation.computations.items() if one.replies)
    if replying:
        why = why_not_own_backend(installation)
        if why is not None:
            raise SetupError(
                f"computation {replying[0]!r} is declared with reply=True, but {why}. Set result_backend to the broker's URL, or "
                "declare the computation without reply=True"
            )
        _try_to_answer(installation, replying[0])


def _try_to_answer(installation: Installation, name: str) -> None:
    """Check at the start that this Redis user may write results, because a commit must not fail because of one."""
    key = installation.app.backend.get_key_for_task(f"trial of {installation.group.names.group}")
    client = installation.group.client
    try:
        client.execute_command("SETEX", key, 1, "null")
        client.publish(key, "null")
    except redis.exceptions.NoPermissionError as error:
        raise SetupError(
            f"computation {name!r} is declared with reply=True, but this Redis user may not store and publish results "
            f"({error}). Allow it the keys and channels celery-task-meta-*"
        ) from None


def _run_id(client: redis.Redis) -> str:
    return str(client.info("server")["run_id"])

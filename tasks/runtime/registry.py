"""The computations declared in this process, and the Celery apps that know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from celery_partitions.model.computation import Computation, name_of_function
from celery_partitions.model.errors import DeclarationError, SetupError
from celery_partitions.runtime.installation import Installation

#: Every computation declared in this process, by name.
declared: dict[str, Computation] = {}
_installations: list[Installation] = []
_default: list[Callable[[], Celery]] = []


def add_installation(installation: Installation, task_class: type[Task]) -> None:
    """From now on the installation's app knows every declared computation, as tasks of `task_class`. Handles use this installation.

    Raises `DeclarationError` for a state class that its settings let no worker read back.
    """
    for computation in declared.values():
        _check_state(installation, computation)
    installation.task_class = task_class
    _installations.append(installation)

    def register_all(**_: Any) -> None:
        for computation in declared.values():
            _register(installation, computation)

    # A Celery app that is not finalized yet has no tasks; asking for them would load a configuration not yet given.
    if installation.app.finalized:
        register_all()
    else:
        installation.app.on_after_finalize.connect(register_all, weak=False)


def remove_installation(installation: Installation) -> None:
    """Handles use the installation that was made before it again. For tests, whose servers come and go."""
    _installations.remove(installation)


def add_computation(computation: Computation) -> None:
    """Called once for each declaration, at import. Raises `DeclarationError` for a name that is taken."""
    before = declared.get(computation.name)
    if before is not None and not _same_source(before, computation):
        raise DeclarationError(
            f"{computation.name!r} is declared twice: as {_place(before)} and as {_place(computation)}. Names are what producers send and "
            "states are stored under, so each needs its own (a stage is named by .to(…, name=…))"
        )
    for installation in _installations:
        _check_state(installation, computation)
    declared[computation.name] = computation
    for installation in _installations:
        if installation.app.finalized:
            _register(installation, computation)


def _check_state(installation: Installation, computation: Computation) -> None:
    if computation.state is None:
        return
    try:
        computation.state.check_allowed(())
    except DeclarationError:
        # Only now, because it loads the app's configuration: a declaration must not do that for nothing.
        computation.state.check_allowed(installation.state_modules)


def _register(installation: Installation, computation: Computation) -> None:
    """Make the computation a Celery task of the app, so that every Celery tool knows its name."""
    app, task_class, function = installation.app, installation.task_class, computation.function
    made = type(
        name_of_function(function),
        (task_class,),
        {
            "name": computation.name,
            "installation": installation,
            "computation": computation,
            "ignore_result": not computation.replies,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
        },
    )
    if isinstance(app.tasks.get(computation.name), task_class):
        app.tasks.unregister(computation.name)  # its module was imported again: nothing to warn of
    app.register_task(made())


def _place(computation: Computation) -> str:
    if computation.role == "task":
        return f"a computation in {computation.function.__module__}"
    return f"a {computation.role} of {computation.scope}"


def _same_source(one: Computation, other: Computation) -> bool:
    """The same function imported again: a reload, or a script that is also `__main__`."""
    if one.role != other.role or (one.role != "task" and one.scope != other.scope):
        return False
    names = [getattr(each.function, "__qualname__", type(each.function).__qualname__) for each in (one, other)]
    return names[0] == names[1] and (
        one.function.__module__ == other.function.__module__
        or "__main__" in (one.function.__module__, other.function.__module__)
    )


def use_by_default(make_app: Callable[[], Celery]) -> None:
    """What makes `celery_partitions.app` when a handle is used and no app was installed."""
    _default[:] = [make_app]


def installation_of(app: Celery) -> Installation | None:
    """The installation on an app, if `install(app)` was called."""
    return next((one for one in reversed(_installations) if one.app is app), None)


def current_installation() -> Installation:
    """The installation that handles use: the last one made; `celery_partitions.app`'s when there is none."""
    if not _installations and _default:
        _default[0]()
    if not _installations:
        raise SetupError("no Celery app has partitions: call celery_partitions.install(app), or import app from celery_partitions")
    return _installations[-1]

"""The computations declared in this process, and the Celery apps on which they are registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import name_of_function
from celery_partitions.model.errors import DeclarationError, SetupError
from celery_partitions.runtime import stand_in
from celery_partitions.runtime.group import Group
from celery_partitions.runtime.installation import Installation

#: Every computation declared in this process, by name.
declared: dict[str, Computation] = {}
#: Those that were renamed, by each former name.
_former: dict[str, Computation] = {}
_installations: list[Installation] = []
_default: list[Callable[[], Celery]] = []


def add_installation(installation: Installation, task_class: type[Task]) -> None:
    """Register every declared computation, now and later, with the installation's app, as tasks of `task_class`. Handles use this
    installation from now on.

    Raises `DeclarationError` for a state class that workers could not read back with the installation's settings.
    """
    for computation in declared.values():
        _check_state(installation, computation)
    installation.task_class = task_class
    _installations.append(installation)

    def register_all(**_: Any) -> None:
        for computation in declared.values():
            _register(installation, computation)

    # An app that is not finalized has no tasks. Asking for them would load its configuration too early.
    if installation.app.finalized:
        register_all()
    else:
        installation.app.on_after_finalize.connect(register_all, weak=False)


def remove_installation(installation: Installation) -> None:
    """Undo `add_installation`: handles use the previous installation again. For tests."""
    _installations.remove(installation)


def add_computation(computation: Computation) -> None:
    """Register a computation. Called once per declaration, at import. Raises `DeclarationError` if the name is taken."""
    before = declared.get(computation.name)
    if before is not None and not _same_source(before, computation):
        raise DeclarationError(
            f"{computation.name!r} is declared twice: as {_place(before)} and as {_place(computation)}. Messages and states are addressed "
            "by name, so rename one (a stage with .to(…, name=…))"
        )
    for name in (computation.name, *computation.former_names):
        other = _former.get(name) if name == computation.name else declared.get(name) or _former.get(name)
        if other is not None and other.name != computation.name and other.name in declared:
            raise DeclarationError(
                f"{name!r} is the name of two computations, {other.name!r} and {computation.name!r}: one has it in formerly=. A message with "
                "that name can be for only one of them"
            )
    for installation in _installations:
        _check_state(installation, computation)
    declared[computation.name] = computation
    _former.update(dict.fromkeys(computation.former_names, computation))
    for installation in _installations:
        if installation.app.finalized:
            _register(installation, computation)


def _check_state(installation: Installation, computation: Computation) -> None:
    if computation.state is None:
        return
    try:
        computation.state.check_allowed(())
    except DeclarationError:
        # Only if needed: reading the setting loads the app's configuration, which a declaration should not do.
        computation.state.check_allowed(installation.state_modules)


def _register(installation: Installation, computation: Computation) -> None:
    """Register the computation as a Celery task of the app, so that Celery's tools know its name."""
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
        app.tasks.unregister(computation.name)  # its module was imported again; Celery would warn
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
    """Set the function that makes `celery_partitions.app`, for handles that are used when no app was installed."""
    _default[:] = [make_app]


def installation_of(app: Celery) -> Installation | None:
    """The installation on an app. None if `install(app)` was not called."""
    return next((one for one in reversed(_installations) if one.app is app), None)


def current_installation() -> Installation:
    """The installation that handles use: the last one, or `celery_partitions.app`'s if there is none."""
    if not _installations and _default:
        _default[0]()
    if not _installations:
        raise SetupError("no Celery app has partitions. Call celery_partitions.install(app), or import app from celery_partitions")
    return _installations[-1]


def current_group() -> Group:
    """The group whose states handles use: the current installation's, or the test kit's while it runs computations."""
    return current_installation().group if stand_in.current is None else stand_in.current.group


async def close_async_clients() -> None:
    """Close the running event loop's connections to every installation's group."""
    for installation in _installations:
        if "group" in vars(installation):
            await installation.group.async_clients.close()

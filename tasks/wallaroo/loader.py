"""A Wallaroo application by the name of its module: imported, and asked for its pipeline."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import celery_partitions.wallaroo as wallaroo
from celery_partitions.producer.pipelines import Application
from celery_partitions.wallaroo.arguments import COMMAND_LINE, read_options

#: What applications look for in `_ARGS` to learn whether they are the first worker; here every process is.
INITIALIZER = "--cluster-initializer"


class ApplicationError(RuntimeError):
    """The application can't be loaded; the text says why, with its own traceback."""


def command_line(given: Sequence[str]) -> tuple[str, ...]:
    """The whole command line as the application is given it: a program's name, what was given, and `--cluster-initializer`."""
    return ("machida", *given, *(() if INITIALIZER in given else (INITIALIZER,)))


def load(arguments: Sequence[str]) -> Application:
    """Import the module that `--application-module` names, from the current folder too, and call its `application_setup` with all of
    `arguments`. Raises `ApplicationError`.
    """
    name = read_options(arguments[1:]).module
    wallaroo._ARGS, COMMAND_LINE[:] = tuple(arguments), arguments
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            raise ApplicationError(
                f"there is no module {name!r} in {folder} or on PYTHONPATH; --application-module is given as in an import, without .py"
            ) from None
        raise ApplicationError(f"importing {name!r} failed:\n{_told(error)}") from error
    setup = getattr(module, "application_setup", None)
    if not callable(setup):
        raise ApplicationError(f"{name!r} has no function application_setup(args)")
    try:
        application = setup(list(arguments))
    except (Exception, SystemExit) as error:
        raise ApplicationError(f"application_setup of {name!r} failed:\n{_told(error)}") from error
    if not isinstance(application, Application):
        raise ApplicationError(
            f"application_setup of {name!r} must return what wallaroo.build_application(…) or ApplicationBuilder.build() gives, not {application!r:.80}"
        )
    return application


def _told(error: BaseException) -> str:
    """The traceback from the application's own code on."""
    frames = traceback.extract_tb(error.__traceback__)
    here = [number for number, frame in enumerate(frames) if frame.filename == __file__ or "importlib" in frame.filename]
    own = frames[max(here, default=-1) + 1 :]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()

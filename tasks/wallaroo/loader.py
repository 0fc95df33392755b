"""Loads a Wallaroo application by its module name and calls its `application_setup`."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import celery_partitions.wallaroo as wallaroo
from celery_partitions.producer.pipelines import Application
from celery_partitions.wallaroo.arguments import COMMAND_LINE, read_options

#: Applications look for this option in `_ARGS` to learn whether they are the first worker. Here every process has it.
INITIALIZER = "--cluster-initializer"


class ApplicationError(RuntimeError):
    """The application cannot be loaded. The text says why, with the traceback of the application's code."""


def command_line(given: Sequence[str]) -> tuple[str, ...]:
    """The command line that the application receives: a program name, the given arguments and `--cluster-initializer`."""
    return ("machida", *given, *(() if INITIALIZER in given else (INITIALIZER,)))


def load(arguments: Sequence[str]) -> Application:
    """Import the module of `--application-module` and call its `application_setup` with all of `arguments`.

    The current folder is on the import path. Raises `ApplicationError`.
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
                f"no module {name!r} in {folder} or on PYTHONPATH. Give --application-module as in an import, without .py"
            ) from None
        raise ApplicationError(f"importing {name!r} failed:\n{_describe(error)}") from error
    setup = getattr(module, "application_setup", None)
    if not callable(setup):
        raise ApplicationError(f"{name!r} has no function application_setup(args)")
    try:
        application = setup(list(arguments))
    except (Exception, SystemExit) as error:
        raise ApplicationError(f"application_setup of {name!r} failed:\n{_describe(error)}") from error
    if not isinstance(application, Application):
        raise ApplicationError(
            f"application_setup of {name!r} must return the result of wallaroo.build_application(…) or ApplicationBuilder.build(), not {application!r:.80}"
        )
    return application


def _describe(error: BaseException) -> str:
    """The traceback, starting at the application's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    here = [number for number, frame in enumerate(frames) if frame.filename == __file__ or "importlib" in frame.filename]
    own = frames[max(here, default=-1) + 1 :]
    lines = traceback.format_list(own) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()

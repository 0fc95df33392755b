"""The fields and escaping of our log lines, and their JSON format (`PARTITIONS_LOG_FORMAT=json`).

One event is one line. It names partition, key and message id, and never holds message contents. The text of an exception raised by
user code is logged as it is: users decide what it contains.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery import current_task, signals
from celery.utils.log import get_multiprocessing_logger
from pythonjsonlogger import json
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.defaults import unknown_default

from celery_partitions.model.escaping import escape, escape_lines
from celery_partitions.model.items import Work
from celery_partitions.model.keys import key_bytes
from celery_partitions.store.names import INGRESS

#: Celery's fields that we do not log: a plain task's arguments and result (`data`), and its names for our `message_id` and `task`.
_NOT_LOGGED = ("data", "task_id", "task_name")
_ESCAPED = "celery-partitions-escaped"
_COLLECTED = "celery-partitions-json"


def log_fields(
    partition: str | None = None,
    *,
    key: str | None = None,
    message_id: object = None,
    task: str | None = None,
    **more: object,
) -> dict[str, object]:
    """Fields for `extra=`. `partition`: a number as text, or `ingress`; `key`: a message's normalized key."""
    fields: dict[str, object] = {
        "partition": partition if partition is None or partition == INGRESS else int(partition),
        "key": None if key is None else key_bytes(key).decode("utf-8", "backslashreplace"),
        "message_id": message_id,
        "task": task,
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def log_fields_of(partition: str, work: Work, **more: object) -> dict[str, object]:
    """The fields for a message that is being processed."""
    return log_fields(partition, key=work.key, message_id=work.envelope.headers.id, task=work.computation.name, **more)


class Escaping(logging.Filter):
    """Escapes the arguments of a log line, so that text from outside cannot start a new line or send control codes to a terminal.

    The format string stays as it is: programmers write it. A traceback is indented, because the text of its exception may contain
    lines that look like log lines.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, Mapping):
            record.args = {name: _escaped(value) for name, value in record.args.items()}
        elif record.args:
            record.args = tuple(map(_escaped, record.args))
        else:
            record.msg = escape_lines(str(record.msg))
        if isinstance(record.exc_info, tuple) and not record.exc_text:
            trace = logging.Formatter().formatException(record.exc_info)
            record.exc_text = textwrap.indent(escape_lines(trace), "    ")
        return True


class EscapingCelerys(Escaping):
    """The same for a handler shared by many loggers: escapes only Celery's lines and ours, not those of user code."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("celery.") and record.name != "celery.redirected":
            super().filter(record)
        return True


class _Escaped:
    """A value whose text is escaped when it is formatted."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        return escape(str(self.value))

    def __repr__(self) -> str:
        return escape(repr(self.value))


def _escaped(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    return escape(value) if type(value) is str else _Escaped(value)


# On the logger, not on a handler: our lines are escaped even in a project that sets up logging itself.
logging.getLogger("celery.worker.partitions").addFilter(Escaping())


def escape_celerys_lines() -> None:
    """Make the handlers that Celery sets up from now on escape Celery's own lines: they contain task names and ids from outside."""
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_escape_in, dispatch_uid=_ESCAPED)


def _escape_in(logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        handler.addFilter(_celerys)


_celerys = EscapingCelerys()


class JsonFormatter(json.JsonFormatter):
    """Writes each line as a JSON object: ts (ISO 8601, UTC), level, logger, event (the text), the `extra=` fields, trace and stack.

    Inside a plain Celery task, `task` and `message_id` are that task's.
    """

    def __init__(self) -> None:
        own = {"levelname": "level", "name": "logger", "message": "event"}
        super().__init__(
            list(own),
            rename_fields=own | {"exc_info": "trace", "stack_info": "stack"},
            reserved_attrs=[*RESERVED_ATTRS, *_NOT_LOGGED, *own.values(), "ts"],
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["ts"] = at.replace("+00:00", "Z")
        request = getattr(current_task, "request", None)
        if request is not None and request.id:
            log_data |= {"task": current_task.name, "message_id": request.id}
        super().add_fields(log_data, record, message_dict)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            return super().jsonify_log_record(log_data)
        except Exception:  # a non-text key or a cycle: logging must not raise
            return super().jsonify_log_record({str(name): unknown_default(value) for name, value in log_data.items()})


def write_json_lines(handlers: Iterable[logging.Handler]) -> None:
    """Set the JSON formatter on handlers."""
    formatter = JsonFormatter()
    for handler in handlers:
        handler.setFormatter(formatter)


def collect_celerys_lines() -> None:
    """Make the loggers that Celery sets up from now on (the worker's and its tasks') write JSON.

    Has no effect in a project that sets up logging itself (the signal `setup_logging`): Celery then sets up no loggers.
    """
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_set_up, dispatch_uid=_COLLECTED)


def begin_with_json(worker: Any) -> None:
    """Before the worker sets up its loggers: suppress its banner, which is not JSON, and write Python warnings as JSON."""
    worker.quiet = True
    write_json_lines([_of_warnings])
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(_of_warnings)


#: Used until Celery has set up its loggers.
_of_warnings = logging.StreamHandler()


def _set_up(logger: logging.Logger, **_: Any) -> None:
    logging.getLogger("py.warnings").removeHandler(_of_warnings)
    write_json_lines([*logger.handlers, *get_multiprocessing_logger().handlers])

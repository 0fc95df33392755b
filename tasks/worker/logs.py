"""What a log line of ours tells beside its text, how lines are written as JSON (`PARTITIONS_LOG_FORMAT=json`), and what no line may hold.

An event is one line. It names partition, key and message id, never what is in a message; but the text of an exception that a user's
own code raised is told as it is: what stands in it is the user's to say.
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
    """Fields for `extra=`. `partition`: as `partition`, a number or `ingress`; `key`: as a message's key is spelled."""
    fields: dict[str, object] = {
        "partition": partition if partition is None or partition == INGRESS else int(partition),
        "key": None if key is None else key_bytes(key).decode("utf-8", "backslashreplace"),
        "message_id": message_id,
        "task": task,
        **more,
    }
    return {name: value for name, value in fields.items() if value is not None}


def log_fields_of(partition: str, work: Work, **more: object) -> dict[str, object]:
    """Fields of a message at work."""
    return log_fields(partition, key=work.key, message_id=work.envelope.headers.id, task=work.computation.name, **more)


class Escaping(logging.Filter):
    """Escapes what is filled into a log line, so that text from outside begins no line of its own and sends nothing to a terminal.

    The text of a line (its format) is written by programmers and stays as it is. A traceback is indented, because the text of an
    exception in it may have lines that look like a log's.
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
    """The same for a handler of many loggers: only Celery's lines and ours. What a user's own code logs is its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("celery.") and record.name != "celery.redirected":
            super().filter(record)
        return True


class _Escaped:
    """A value whose text is escaped when it is asked for."""

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


# Wherever our own lines go, also where a project sets up logging by itself.
logging.getLogger("celery.worker.partitions").addFilter(Escaping())


def escape_celerys_lines() -> None:
    """From now on what Celery sets up in this process escapes Celery's own lines too: they have task names and ids in them."""
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_escape_in, dispatch_uid=_ESCAPED)


def _escape_in(logger: logging.Logger, **_: Any) -> None:
    for handler in logger.handlers:
        handler.addFilter(_celerys)


_celerys = EscapingCelerys()


class JsonFormatter(json.JsonFormatter):
    """One JSON object a line: ts (ISO 8601, UTC), level, logger, event (the text), what was given as `extra=`, trace and stack.

    Within a plain Celery task, `task` and `message_id` are that task's.
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
        except Exception:  # a key that is no text, a circle: logging must not raise
            return super().jsonify_log_record({str(name): unknown_default(value) for name, value in log_data.items()})


def write_json_lines(handlers: Iterable[logging.Handler]) -> None:
    """Give handlers the JSON formatter."""
    formatter = JsonFormatter()
    for handler in handlers:
        handler.setFormatter(formatter)


def collect_celerys_lines() -> None:
    """From now on what Celery sets up in this process, a worker's and its tasks' loggers, writes JSON.

    A project that sets up logging itself (the signal `setup_logging`) is left alone: Celery then sets up nothing.
    """
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(_set_up, dispatch_uid=_COLLECTED)


def begin_with_json(worker: Any) -> None:
    """A worker that begins, and has not set up its loggers yet: its banner is no JSON, and it may warn."""
    worker.quiet = True
    write_json_lines([_of_warnings])
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(_of_warnings)


#: Until Celery has set up its loggers.
_of_warnings = logging.StreamHandler()


def _set_up(logger: logging.Logger, **_: Any) -> None:
    logging.getLogger("py.warnings").removeHandler(_of_warnings)
    write_json_lines([*logger.handlers, *get_multiprocessing_logger().handlers])

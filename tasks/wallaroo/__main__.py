"""`python -m celery_partitions.wallaroo --application-module alphabet --in 127.0.0.1:7010 --out 127.0.0.1:7002 [--workers 2]`."""

from __future__ import annotations

import sys
import warnings

from celery_partitions.model.errors import PartitionError
from celery_partitions.sources.stop_signal import EndAtOnce, Stop
from celery_partitions.testing.server import ServerError
from celery_partitions.wallaroo.arguments import read_options
from celery_partitions.wallaroo.loader import ApplicationError, command_line, load
from celery_partitions.wallaroo.runner import RunError, run, say
from celery_partitions_config.settings import SettingsError


def main() -> int:
    """Run the application. Returns the exit code (see `--help`)."""
    options = read_options(sys.argv[1:])
    arguments = command_line(sys.argv[1:])
    stop = Stop()
    stop.listen()
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            application = load(arguments)
        for text in dict.fromkeys(str(warning.message) for warning in found):
            say(f"note: {text}")
    except ApplicationError as error:
        say(str(error))
        return 2
    try:
        return run(application, options, arguments, stop)
    except (RunError, ServerError, SettingsError, PartitionError) as error:
        say(str(error))
        return 1
    except EndAtOnce as end:
        return end.code


if __name__ == "__main__":
    sys.exit(main())

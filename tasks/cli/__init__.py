"""`celery -A APP partitions …`: what an operator asks and does, from a terminal or a script.

Every command that prints facts has `--json`. Exit codes: 0 done, 1 refused or nothing found (said on standard error), 2 wrong usage.
"""

from celery_partitions.cli.commands import partitions

__all__ = ["partitions"]

"""`celery -A APP partitions …`: the commands for operators, for use in a terminal or a script.

Every command that prints facts has `--json`. Exit codes: 0 done, 1 refused or not found (standard error says why), 2 wrong usage.
"""

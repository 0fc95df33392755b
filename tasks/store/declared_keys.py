"""Commands as operands of a script: each key goes into KEYS once, and the commands name it by its number there.

A server can only tell what a script touches by its KEYS: a cluster runs the script where those keys are, and an ACL checks them before
the script begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis

from celery_partitions.store.scripts import script

#: How many operands of a command are keys, where it is not one. The scripts have the same table.
KEYS_OF = {"RENAME": 2}


def keys_in(command: Sequence[Any]) -> Sequence[Any]:
    """The keys that a command touches."""
    return command[1 : 1 + KEYS_OF.get(command[0], 1)]


def declare(commands: Iterable[Sequence[Any]], keys: list[Any], words: list[Any]) -> None:
    """Append the commands to a script's ARGV, `words`, and their keys to its KEYS. Each command is preceded by how many words it has."""
    numbers = {key: number for number, key in enumerate(keys, 1)}
    for command in commands:
        words += (len(command), command[0])
        first = 1 + KEYS_OF.get(command[0], 1)
        for key in command[1:first]:
            number = numbers.get(key)
            if number is None:
                keys.append(key)
                number = numbers[key] = len(keys)
            words.append(number)
        words += command[first:]


def refused_keys(client: redis.Redis, commands: Iterable[Sequence[Any]]) -> set[Any]:
    """The keys of the commands that this user may not touch in a script. Asked after the server refused a call for one of its KEYS."""
    refused = set()
    for key in dict.fromkeys(key for command in commands for key in keys_in(command)):
        try:
            script("may_touch").run(client, [key], [])
        except redis.exceptions.NoPermissionError:
            refused.add(key)
    return refused

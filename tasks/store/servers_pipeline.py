"""A pipeline over several servers (`store/servers.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis.client import Pipeline
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

if TYPE_CHECKING:
    from celery_partitions.store.servers import Servers

#: How often a command follows a slot that moves.
REDIRECTS = 5
#: What a server says that cannot run a command now, and has not run it. The caller sends it again later.
NOT_NOW = (TryAgainError, ClusterDownError)
#: What a server says when a slot has moved, is being moved, or has no server. It has not run the command.
MOVES = (AskError, *NOT_NOW)
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OSError)


class ServersPipeline(Pipeline):
    """Sends each command to its server, to all servers at once. Answers are in the order of the commands."""

    def __init__(self, servers: Servers, transaction: bool) -> None:
        super().__init__(servers.connection_pool, servers.response_callbacks, transaction, None)
        self.servers, self._is_transaction = servers, transaction
        #: A server that can't be reached: its error is the answer to its commands, instead of being raised.
        self.takes_what_there_is = False

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        stack, self.command_stack = self.command_stack, []
        groups: dict[int | None, list[int]] = {}
        for number, (words, _) in enumerate(stack):
            groups.setdefault(self.servers.places.slot_of_command(words), []).append(number)
        if self._is_transaction:
            return self._together(stack, list(groups), raise_on_error)
        answers: list[Any] = [None] * len(stack)
        lost = self._send(stack, groups, answers)
        for number, answer in enumerate(answers):
            if isinstance(answer, MOVES):  # All commands for one key are refused, so they keep their order
                try:
                    answers[number] = self.servers.execute_command(*stack[number][0], **stack[number][1])
                except redis.RedisError as error:
                    answers[number] = error
                    lost = lost or (error if isinstance(error, UNREACHABLE) else None)
        if lost is not None and not self.takes_what_there_is:
            raise lost
        if raise_on_error:
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def _together(self, stack: list[Any], slots: list[int | None], raise_on_error: bool) -> list[Any]:
        """A transaction, which has one server."""
        if len(slots) > 1:
            raise ValueError("a transaction cannot have keys of several partitions")
        for _ in range(REDIRECTS):
            client = self.servers.control if not slots or slots[0] is None else self.servers.at_slot(slots[0])
            with client.pipeline(transaction=True) as pipe:
                pipe.command_stack = list(stack)
                try:
                    return pipe.execute(raise_on_error)
                except MovedError:
                    self.servers.look_again()
                except MOVES as refusal:
                    raise redis.ConnectionError(str(refusal)) from refusal
                except UNREACHABLE:
                    self.servers.lost(client)
                    raise
        raise redis.ConnectionError("a slot moves from server to server")

    def _send(self, stack: list[Any], groups: dict[int | None, list[int]], answers: list[Any]) -> Exception | None:
        """Send everything, then read everything. Returns the error of a server that can't be reached."""
        of_server: dict[int, tuple[redis.Redis, list[int]]] = {}
        lost: Exception | None = None
        for slot, numbers in groups.items():
            try:
                client = self.servers.control if slot is None else self.servers.at_slot(slot)
            except redis.ConnectionError as error:
                lost = error
                answers_of(answers, numbers, error)
                continue
            of_server.setdefault(id(client), (client, []))[1].extend(numbers)
        sent: list[tuple[redis.Redis, Any, list[int]]] = []
        try:
            for client, numbers in of_server.values():
                numbers.sort()
                connection: Any = None
                try:
                    connection = client.connection_pool.get_connection()
                    sent.append((client, connection, numbers))
                    connection.send_packed_command(connection.pack_commands([stack[number][0] for number in numbers]))
                except UNREACHABLE as error:
                    lost = self._lose(client, connection, error)
                    answers_of(answers, numbers, error)
            for client, connection, numbers in sent:
                for at, number in enumerate(numbers):
                    if answers[number] is not None:
                        break  # it could not be sent
                    words, options = stack[number]
                    try:
                        answers[number] = client.parse_response(connection, words[0], **options)
                    except redis.ResponseError as refusal:
                        answers[number] = refusal
                    except UNREACHABLE as error:
                        lost = self._lose(client, connection, error)
                        answers_of(answers, numbers[at:], error)
                        break
        except BaseException:
            for _, connection, _ in sent:
                connection.disconnect()
            raise
        finally:
            for client, connection, _ in sent:
                client.connection_pool.release(connection)
        return lost

    def _lose(self, client: redis.Redis, connection: Any, error: Exception) -> Exception:
        if connection is not None:
            connection.disconnect()
        self.servers.lost(client)
        return error


def answers_of(answers: list[Any], numbers: list[int], error: Exception) -> None:
    for number in numbers:
        answers[number] = error

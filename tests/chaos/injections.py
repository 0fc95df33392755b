"""Carries out the injections of the schedule, and ends those that last for a while."""

from __future__ import annotations

from typing import assert_never

import redis

from tests.chaos.cluster import ClusterStage, Done, to_cluster
from tests.chaos.operator import Operator
from tests.chaos.schedule import Injection
from tests.chaos.stage import Stage
from tests.support.proxy import Proxy


def carry_out(injection: Injection, stage: Stage) -> Done:
    """Carry out one injection now."""
    match injection.kind:
        case "kill" | "freeze" | "leave" | "quit" | "join":
            return _to_worker(injection, _number(injection), stage)
        case "cut" | "silence":
            return _to_line(injection, _number(injection), stage.lines[_number(injection)])
        case "lose requests" | "lose replies":
            return _lose(injection, stage.lines[_number(injection)], stage, f"line {injection.target}")
        case "resend":
            return _lose(injection, stage.producers_line, stage, "producers' line")
        case "kill server" | "restart server" | "pause server":
            return _to_server(injection, stage)
        case "kill primary" | "pause primary" | "move slot" | "cut server" | "silence server" | "lose requests to server" | "lose replies of server":
            assert isinstance(stage, ClusterStage)
            return to_cluster(injection, stage)
        case "flush scripts":
            return _flush_scripts(stage)
        case "malformed":
            stage.producers[_number(injection)].malformed.append(injection.times)
            return Done(f"producer {injection.target}: {injection.times} malformed messages")
        case "raising":
            stage.producers[_number(injection)].raising.append(injection.times)
            return Done(f"producer {injection.target}: {injection.times} messages that raise, once or always")
        case "poison":
            # Every second one goes into a long backlog.
            sender = stage.producers[0] if _number(injection) == 0 else stage.prober
            sender.poison_messages.append(injection.times)
            return Done(f"{sender.name}: a message that kills every worker that runs it")
        case "hold":
            stage.producers[_number(injection)].holding.append(injection.times)
            return Done(f"producer {injection.target}: a message that holds the interpreter lock")
        case "crowd":
            stage.prober.crowds.append(injection.times)
            return Done(f"{injection.times} keys whose messages always raise")
        case "hang":
            stage.producers[_number(injection)].hanging.append(injection.times)
            return Done(f"producer {injection.target}: a message that takes longer than its time limit")
        case "pause partition" | "drain worker" | "forget state" | "retry parked":
            return _by_operator(injection, stage.operator)
        case _:
            assert_never(injection.kind)


def _number(injection: Injection) -> int:
    assert injection.target is not None
    return injection.target


def _to_worker(injection: Injection, number: int, stage: Stage) -> Done:
    if injection.kind == "join":
        return Done(f"worker {number} joins (pid {stage.start_worker(number).pid})")
    worker = stage.workers[number]
    if injection.kind == "freeze":
        worker.stop_process()
        text = f"SIGSTOP to worker {number} for {injection.seconds} s"
        return Done(text, (f"SIGCONT to worker {number}", worker.continue_process))
    stage.ended.add(number)
    match injection.kind:
        case "kill":
            worker.kill()
            return Done(f"SIGKILL to worker {number}")
        case "leave":
            worker.terminate()
            return Done(f"SIGTERM to worker {number}")
        case _:
            worker.quit()
            return Done(f"SIGQUIT to worker {number}")


def _to_line(injection: Injection, number: int, line: Proxy) -> Done:
    if injection.kind == "cut":
        cut = line.connection_count
        line.cut()
        return Done(f"line {number} is cut ({cut} connections)")
    line.freeze()
    return Done(f"line {number} is silent for {injection.seconds} s", (f"line {number} answers again", line.thaw))


def _lose(injection: Injection, line: Proxy, stage: Stage, name: str) -> Done:
    what, prepare = (
        ("requests", line.cut_before_request)
        if injection.kind == "lose requests"
        else ("replies to requests", line.cut_before_reply)
    )
    stage.faults.append(prepare(injection.marker, injection.times))
    return Done(f"{name}: the next {injection.times} {what} with {injection.marker.decode()!r} are lost")


def _to_server(injection: Injection, stage: Stage) -> Done:
    server = stage.server
    match injection.kind:
        case "pause server":
            server.pause()
            return Done(f"SIGSTOP to the server for {injection.seconds} s", ("SIGCONT to the server", server.resume))
        case "kill server":
            server.kill()
            return Done(f"SIGKILL to the server for {injection.seconds} s", ("the server starts again", server.start))
        case _:
            server.stop()
            return Done(f"SIGTERM to the server for {injection.seconds} s", ("the server starts again", server.start))


def _flush_scripts(stage: Stage) -> Done:
    if not stage.server.running:
        return Done("the server has no scripts to forget now")
    with stage.server.client(socket_timeout=0.5) as client:
        try:
            client.script_flush()
        except redis.RedisError as error:  # it is paused
            return Done(f"the server did not answer SCRIPT FLUSH ({error})")
    return Done("SCRIPT FLUSH")


def _by_operator(injection: Injection, operator: Operator) -> Done:
    match injection.kind:
        case "pause partition":
            partition = str(_number(injection))
            text = f"partition {partition} is paused for {injection.seconds} s ({operator.pause(partition)})"
            return Done(text, (f"partition {partition} is resumed", lambda: operator.resume(partition)))
        case "drain worker":
            worker = _number(injection)
            text = f"worker {worker} is drained for {injection.seconds} s ({operator.drain(worker)})"
            return Done(text, (f"worker {worker} is undrained", lambda: operator.undrain(worker)))
        case "forget state":
            return Done(f"{injection.times} states that do not exist are forgotten ({operator.forget(injection.times)})")
        case _:
            return Done(f"parked keys are retried at once ({operator.retry_parked()})")

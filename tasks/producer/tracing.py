"""With `PARTITIONS_TRACING`: what Celery itself publishes carries the trace too: `send_task` of a computation, links, chains and chords."""

from __future__ import annotations

from typing import Any

from celery import signals

from celery_partitions.runtime.installation import Installation


def carry_traces(installation: Installation) -> None:
    """From now on messages that this process publishes carry a trace's context, unless they have one.

    Those are messages of computations, wherever they are sent from, and whatever is sent by a computation that runs here, or follows it.
    """

    def about_to_publish(
        sender: str, headers: dict[str, Any] | None = None, routing_key: str | None = None, **_: Any
    ) -> None:
        tracing = installation.tracing
        if tracing is None or headers is None or tracing.is_carried(headers):
            return
        if sender in installation.computations and tracing.names.partition_of_queue(str(routing_key)) is not None:
            message_id = str(headers.get("id"))
            # The key is not known here: the message is written already.
            headers.update(tracing.created(sender, str(routing_key), message_id))
        elif tracing.is_inside():
            tracing.carry(headers)

    # One receiver for an installation, however often its app is configured.
    uid = f"celery-partitions-tracing-{id(installation)}"
    signals.before_task_publish.connect(about_to_publish, weak=False, dispatch_uid=uid)

"""With `PARTITIONS_TRACING`: adds the trace context to what Celery itself publishes: `send_task`, links, chains and chords."""

from __future__ import annotations

from typing import Any

from celery import signals

from celery_partitions.runtime.installation import Installation


def carry_traces(installation: Installation) -> None:
    """Add a trace context to messages that this process publishes, unless they have one.

    This applies to all messages to computations, and to everything that a running computation sends, or that follows it.
    """

    def about_to_publish(
        sender: str, headers: dict[str, Any] | None = None, routing_key: str | None = None, **_: Any
    ) -> None:
        tracing = installation.tracing
        if tracing is None or headers is None or tracing.is_carried(headers):
            return
        if sender in installation.by_task and tracing.names.partition_of_queue(str(routing_key)) is not None:
            message_id = str(headers.get("id"))
            # The key is unknown here, because the message is already encoded.
            headers.update(tracing.created(sender, str(routing_key), message_id))
        elif tracing.is_inside():
            tracing.carry(headers)

    # The id keeps it at one receiver per installation, however often its app is configured.
    uid = f"celery-partitions-tracing-{id(installation)}"
    signals.before_task_publish.connect(about_to_publish, weak=False, dispatch_uid=uid)

"""What `delay` and `apply_async` of a computation return."""

from __future__ import annotations

from typing import Any

from celery.result import AsyncResult

from celery_partitions.model.errors import PartitionError


class SentResult(AsyncResult):  # type: ignore[misc]
    """The result of one message. To wait for one that no worker will store is an error, instead of a wait that never ends."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's. Raises `PartitionError` if the message asks for no result."""
        if self.ignored:
            raise PartitionError(
                "the message asks for no result, so there is nothing to wait for: declare its computation with reply=True, "
                "or send it with apply_async(…, ignore_result=False)"
            )
        return super().get(*args, **kwargs)

    wait = get

"""Scripts run though the server forgets them at any moment."""

from __future__ import annotations

from typing import Any

import redis

from celery_partitions.store.scripts import script


class Forgetful(redis.Redis):
    """Its server forgets all scripts before each pipeline."""

    def pipeline(self, *args: Any, **options: Any) -> Any:
        self.script_flush()
        return super().pipeline(*args, **options)


def test_scripts_that_are_forgotten_between_two_tries_run(redis_url: str) -> None:
    with Forgetful.from_url(redis_url) as client:
        client.hset("{partition}:group", "follow_up_secret", "x")
        calls = [(["{partition}:group"], ["follow_up_secret", "y"])] * 2
        assert script("follow_up_secret").run_many(client, calls, ("PING",)) == [b"x", b"x", True]

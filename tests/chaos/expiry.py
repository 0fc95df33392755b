"""Keys that expire when they are not used: what they were is sent to another key, whose state grows by each life."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_partitions import Context, key_extractor, state_computation
from tests.chaos.acts import GIVE_UP, Act, History, act_key, act_out

#: Between two pushes to a key it often expires, and often does not.
TTL_SECONDS = 1.0
#: The prefix of the key that remembers.
REMEMBERED = "remembered "


@dataclass
class Will:
    key: str
    numbers: list[int] = field(default_factory=list)


class Memories(History):
    lives = 0


@key_extractor
def will_key(will: Will) -> str:
    return will.key


@state_computation(name="remember", state=Memories, key=will_key)
def remember(will: Will, state: Memories) -> None:
    state.numbers += will.numbers
    state.lives += 1


def end(state: History, context: Context) -> None:
    remember.delay(Will(REMEMBERED + context.key, state.numbers))


@state_computation(name="live", state=History, key=act_key, on_error=GIVE_UP, ttl=TTL_SECONDS, on_expire=end)
def live(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)

"""What needs an operator, for a process that shows it for a while: read again now and then, the dearer facts more seldom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from celery_partitions.admin.attention import Attention, look, words
from celery_partitions.admin.attention_facts import Attended, Ends, read_facts, read_kinds, server_findings
from celery_partitions.admin.checks import Check
from celery_partitions.admin.dead_letter_query import DeadLetterGroup
from celery_partitions.admin.overview import Overview, read_overview

#: What is older is read again.
FRESH_SECONDS = 5.0
#: The server's findings.
DEAR_SECONDS = 60.0
#: The kinds of dead letters, unless their number has changed. It may be the same though others came.
KINDS_SECONDS = 15.0


class AttentionWatch:
    """Any thread may call it. `look` blocks. `ends`: called at each read, because an app may build its pipelines later."""

    def __init__(
        self, group: Attended, ends: Callable[[], Ends] = Ends, *, fresh_seconds: float = FRESH_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.group, self.ends, self.fresh_seconds, self.clock = group, ends, fresh_seconds, clock
        #: Partition → `stalled` or `falling behind`, as of the last look. Replaced, never changed.
        self.words: Mapping[str, str] = {}
        self._lock = threading.Lock()
        self._found: tuple[float, list[Attention]] | None = None
        self._server: tuple[float, Sequence[Check]] | None = None
        self._kinds: tuple[float, int, Sequence[DeadLetterGroup]] | None = None

    def look(self, overview: Overview | None = None) -> list[Attention]:
        """What needs an operator, as it was at most `fresh_seconds` ago, worst first. Raises what `read_overview` raises.

        `overview`: the group now, if the caller has just read it.
        """
        with self._lock:
            now = self.clock()
            if self._found is None or now - self._found[0] >= self.fresh_seconds:
                overview = overview or read_overview(self.group)
                facts = read_facts(self.group, overview, self.ends(), server=self._findings(now), kinds=self._dead_letters(now, overview))
                self.words = words(facts)
                self._found = (now, look(facts))
            return self._found[1]

    def invalidate(self) -> None:
        """Make the next `look` read again, after a change. Never blocks."""
        self._found = None

    def _findings(self, now: float) -> Sequence[Check]:
        if self._server is None or now - self._server[0] >= DEAR_SECONDS:
            self._server = (now, server_findings(self.group))
        return self._server[1]

    def _dead_letters(self, now: float, overview: Overview) -> Sequence[DeadLetterGroup]:
        count = sum(one.status.dead for one in overview.partitions)
        known = self._kinds
        if known is None or known[1] != count or now - known[0] >= KINDS_SECONDS:
            self._kinds = known = (now, count, read_kinds(self.group) if count else [])
        return known[2]


def attention_json(found: Sequence[Attention]) -> list[dict[str, Any]]:
    """The list in JSON, for the API and `--json`."""
    return [msgspec.structs.asdict(one) for one in found]

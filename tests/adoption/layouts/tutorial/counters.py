"""The next step: the tutorial's app gets partitions, and a computation."""

from dataclasses import dataclass

import celery_partitions
from celery_partitions import state_computation
from tasks import app

celery_partitions.install(app)


@dataclass
class Visit:
    page: str


class Visits:
    count = 0


@state_computation(name="count visits", state=Visits, key=lambda visit: visit.page)
def count_visit(visit: Visit, visits: Visits) -> None:
    visits.count += 1

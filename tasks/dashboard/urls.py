"""All our URLs. Pages and their resources are under /partition… and need the same login as Flower's pages. The API is under
/api/partitions."""

from __future__ import annotations

from tornado.web import StaticFileHandler, url

from celery_partitions.dashboard import actions, api, events, pages
from celery_partitions.dashboard.loader import STATIC
from celery_partitions.dashboard.views import VIEWS, ViewApi, ViewPage

PARTITION = "([0-9]+|ingress)"

HANDLERS = [
    url(r"/partitions", pages.PartitionsPage, name="partitions"),
    url(r"/partitions/events", events.PageEvents, name="partitions-events"),
    url(r"/partitions/overview", events.PageOverview, name="partitions-overview"),
    url(r"/partitions/key", pages.KeyPage, name="partitions-key"),
    *(url(rf"/partitions/{view.name}", ViewPage, {"view": view}, name=f"partitions-{view.name}") for view in VIEWS),
    url(r"/partitions/history", api.PageHistory, name="partitions-history"),
    url(r"/partitions/dead-letters.jsonl", pages.DeadLettersDownload, name="partitions-dead-letters-download"),
    url(rf"/partition/{PARTITION}", pages.PartitionPage, name="partition"),
    url(r"/partitions/static/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="partitions-static"),
    url(r"/api/partitions", api.Overview, name="api-partitions"),
    url(r"/api/partitions/attention", api.Attention),
    url(r"/api/partitions/events", events.ApiEvents),
    url(r"/api/partitions/keys", api.Key),
    url(r"/api/partitions/keys/(.+)", api.Key),
    url(r"/api/partitions/dead-letters/(retry|discard)", actions.DeadLettersAction),
    url(r"/api/partitions/parked/(retry|skip)", actions.ParkedManyAction),
    url(r"/api/partitions/workers/(drain|undrain)", actions.Drain),
    *(url(rf"/api/partitions/{view.api_name or view.name}", ViewApi, {"view": view}) for view in VIEWS),
    url(r"/api/partitions/history", api.History),
    url(r"/api/partitions/key/(retry|skip|discard)", actions.ParkedAction),
    url(r"/api/partitions/key/state", actions.SetState),
    url(r"/api/partitions/key/forget", actions.Forget),
    url(r"/api/partitions/key/cancel-timer", actions.CancelTimer),
    url(rf"/api/partitions/{PARTITION}", api.Partition),
    url(rf"/api/partitions/{PARTITION}/(pause|resume)", actions.Pause),
]

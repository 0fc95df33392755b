"""All our URLs. Pages and their resources are under /partition… and need the same login as Flower's pages. The API is under
/api/partitions."""

from __future__ import annotations

from tornado.web import StaticFileHandler, url

from celery_partitions.dashboard import actions, api, events, list_api, list_pages, pages
from celery_partitions.dashboard.loader import STATIC

PARTITION = "([0-9]+|ingress)"

HANDLERS = [
    url(r"/partitions", pages.PartitionsPage, name="partitions"),
    url(r"/partitions/events", events.PageEvents, name="partitions-events"),
    url(r"/partitions/overview", events.PageOverview, name="partitions-overview"),
    url(r"/partitions/key", pages.KeyPage, name="partitions-key"),
    url(r"/partitions/dead-letters", pages.DeadLettersPage, name="partitions-dead-letters"),
    url(r"/partitions/parked", list_pages.ParkedPage, name="partitions-parked"),
    url(r"/partitions/computations", list_pages.ComputationsPage, name="partitions-computations"),
    url(r"/partitions/computation", list_pages.ComputationPage, name="partitions-computation"),
    url(r"/partitions/ends", list_pages.EndsPage, name="partitions-ends"),
    url(r"/partitions/workers", list_pages.WorkersPage, name="partitions-workers"),
    url(r"/partitions/versions", list_pages.VersionsPage, name="partitions-versions"),
    url(r"/partitions/keys", list_pages.KeysPage, name="partitions-keys"),
    url(r"/partitions/audit", list_pages.AuditPage, name="partitions-audit"),
    url(r"/partitions/history", list_pages.PageHistory, name="partitions-history"),
    url(r"/partitions/dead-letters.jsonl", pages.DeadLettersDownload, name="partitions-dead-letters-download"),
    url(rf"/partition/{PARTITION}", pages.PartitionPage, name="partition"),
    url(r"/partitions/static/(.*)", StaticFileHandler, {"path": str(STATIC)}, name="partitions-static"),
    url(r"/api/partitions", api.Overview, name="api-partitions"),
    url(r"/api/partitions/attention", api.Attention),
    url(r"/api/partitions/versions", api.Versions),
    url(r"/api/partitions/events", events.ApiEvents),
    url(r"/api/partitions/keys", api.Key),
    url(r"/api/partitions/keys/(.+)", api.Key),
    url(r"/api/partitions/dead-letters", api.DeadLetters),
    url(r"/api/partitions/dead-letters/(retry|discard)", actions.DeadLettersAction),
    url(r"/api/partitions/parked", list_api.Parked),
    url(r"/api/partitions/parked/(retry|skip)", list_api.ParkedManyAction),
    url(r"/api/partitions/computations", list_api.Computations),
    url(r"/api/partitions/workers", list_api.Workers),
    url(r"/api/partitions/ends", list_api.EndsApi),
    url(r"/api/partitions/workers/(drain|undrain)", actions.Drain),
    url(r"/api/partitions/find-keys", list_api.FindKeys),
    url(r"/api/partitions/history", list_api.History),
    url(r"/api/partitions/audit", list_api.Audit),
    url(r"/api/partitions/key/(retry|skip|discard)", actions.ParkedAction),
    url(r"/api/partitions/key/state", actions.SetState),
    url(r"/api/partitions/key/forget", actions.Forget),
    url(r"/api/partitions/key/cancel-timer", actions.CancelTimer),
    url(rf"/api/partitions/{PARTITION}", api.Partition),
    url(rf"/api/partitions/{PARTITION}/(pause|resume)", actions.Pause),
]

"""Every metric of the API, the workers and the scheduler; exposition.py shows them to Prometheus.

Each kind of process shows the metrics of its own part and those that all share.

Label values come from short lists, never from what a caller sent: no job ids, no paths, no file names.
"""

from collections.abc import Iterable
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from app.domain.leases import Kind

Service = Literal["api", "worker", "scheduler"]

# From a job of the tiniest model to one of days.
_WORK_SECONDS: Final = (
    *(1, 2, 5, 15, 30, 60, 120, 300, 600, 1_800),
    *(3_600, 7_200, 14_400, 28_800, 57_600, 86_400, 172_800, 345_600),
)
_CALL_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

# A second series per counter and histogram, with the time of its birth, that no alert needs.
disable_created_metrics()

_shared = CollectorRegistry()
_api = CollectorRegistry()
_worker = CollectorRegistry()
_scheduler = CollectorRegistry()
ProcessCollector(registry=_shared)
PlatformCollector(registry=_shared)

# -- every process ------------------------------------------------------------------------------------

BUILD_INFO = Gauge(
    "stillhouse_build_info",
    "Always 1; the version and the part are in the labels.",
    ["version", "service"],
    registry=_shared,
)
OBJECT_STORE_SECONDS = Histogram(
    "stillhouse_object_store_request_duration_seconds",
    "Calls of the object store. put: until stored; get: until the first bytes; list: until the first page. "
    "outcome: ok, missing, error.",
    ["operation", "outcome"],
    buckets=_CALL_SECONDS,
    registry=_shared,
)
WORK_ENDED = Counter(
    "stillhouse_work_ended_total",
    "Jobs, datasets and teachers that came to an end, counted by the process that wrote it.",
    ["kind", "outcome"],
    registry=_shared,
)
WORK_FAILED = Counter(
    "stillhouse_work_failed_total",
    "Those that failed, by the code in their error.",
    ["kind", "error_code"],
    registry=_shared,
)
WAKES = Counter(
    "stillhouse_wakes_total",
    "Attempts to tell the workers through the broker that there is work.",
    ["outcome"],
    registry=_shared,
)

# -- the API ------------------------------------------------------------------------------------------

HTTP_SECONDS = Histogram(
    "stillhouse_http_request_duration_seconds",
    "HTTP requests from their arrival to the first byte of the answer.",
    ["method", "route", "status"],
    buckets=_CALL_SECONDS,
    registry=_api,
)
HTTP_IN_FLIGHT = Gauge(
    "stillhouse_http_requests_in_flight", "HTTP requests under way, downloads and streams included.", registry=_api
)
EVENT_LISTENERS = Gauge("stillhouse_event_listeners", "Open streams of job events.", registry=_api)

# -- workers ------------------------------------------------------------------------------------------

WORKER_BUSY = Gauge(
    "stillhouse_worker_busy", "1 while the worker has work of this kind in hand, else 0.", ["kind"], registry=_worker
)
ATTEMPT_SECONDS = Histogram(
    "stillhouse_attempt_duration_seconds",
    "A worker's go at a piece of work, from the claim to the end that its row got.",
    ["kind", "outcome"],
    buckets=_WORK_SECONDS,
    registry=_worker,
)
PHASE_SECONDS = Histogram(
    "stillhouse_job_phase_duration_seconds",
    "How long a phase took in all of an attempt, the fetching of inputs and the storing of the student among the "
    "phases. Told when the attempt is over; outcome is that of the attempt, for all of its phases.",
    ["phase", "outcome"],
    buckets=_WORK_SECONDS,
    registry=_worker,
)
LEASES_LOST = Counter(
    "stillhouse_leases_lost_total",
    "Work that was taken away from this worker while it held it.",
    ["kind"],
    registry=_worker,
)
LEASE_RENEWALS_FAILED = Counter(
    "stillhouse_lease_renewals_failed_total", "Renewals of a lease that the database did not answer.", registry=_worker
)
ENGINE_EXITS = Counter(
    "stillhouse_engine_exits_total",
    "Ends of the engine, by its exit code, why its worker killed it, or the signal that did.",
    ["exit"],
    registry=_worker,
)
ENGINE_MEMORY_BYTES = Gauge(
    "stillhouse_engine_memory_bytes", "Memory of the engine and its children now; 0 while none runs.", registry=_worker
)
ENGINE_MEMORY_LIMIT_BYTES = Gauge(
    "stillhouse_engine_memory_limit_bytes",
    "Memory at which the engine is stopped; 0 while none runs.",
    registry=_worker,
)
DEVICE_MEMORY_BYTES = Gauge(
    "stillhouse_engine_device_memory_bytes",
    "The most device memory that the engine's tensors have held in this run; absent without a device.",
    ["device"],
    registry=_worker,
)
DEVICE_MEMORY_TOTAL_BYTES = Gauge(
    "stillhouse_engine_device_memory_total_bytes",
    "Memory of the device that the engine computes on.",
    ["device"],
    registry=_worker,
)
CHECKPOINT_UPLOAD_SECONDS = Histogram(
    "stillhouse_checkpoint_upload_duration_seconds",
    "Storing a checkpoint: its objects and the row that names them.",
    ["outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
    registry=_worker,
)
CHECKPOINT_UPLOAD_BYTES = Counter(
    "stillhouse_checkpoint_upload_bytes_total", "Bytes of the checkpoints that were stored.", registry=_worker
)
WORK_DIR_FREE_BYTES = Gauge(
    "stillhouse_work_dir_free_bytes", "Free space where run folders lie (STILLHOUSE_WORK_DIR).", registry=_worker
)

# -- who sweeps ---------------------------------------------------------------------------------------

SWEEP_LAST_SUCCESS = Gauge(
    "stillhouse_sweep_last_success_timestamp_seconds",
    "When a sweep last came to its end, in Unix time.",
    registry=_scheduler,
)
SWEEP_SECONDS = Histogram(
    "stillhouse_sweep_duration_seconds", "Sweeps.", ["outcome"], buckets=_CALL_SECONDS, registry=_scheduler
)
LEASES_EXPIRED = Counter(
    "stillhouse_leases_expired_total",
    "Leases that ran out because their worker fell silent, and what became of the work.",
    ["kind", "outcome"],
    registry=_scheduler,
)
OBJECTS_DELETED = Counter(
    "stillhouse_objects_deleted_total", "Objects that no row named any more and the sweep deleted.", registry=_scheduler
)

_PARTS: Final[dict[Service, CollectorRegistry]] = {"api": _api, "worker": _worker, "scheduler": _scheduler}
_KINDS: Final = ("dataset", "teacher", "job")
_Zero = tuple[Counter, tuple[str, ...]]
_WAKES: Final[tuple[_Zero, ...]] = ((WAKES, ("sent",)), (WAKES, ("failed",)))
# What an alert counts has to be there before it happens: the step from nothing to 1 is no increase.
_ZEROS: Final[dict[Service, tuple[_Zero, ...]]] = {
    "api": _WAKES,
    "worker": (
        *((WORK_ENDED, ("job", outcome)) for outcome in ("succeeded", "failed", "cancelled")),
        *((WORK_ENDED, (kind, outcome)) for kind in ("dataset", "teacher") for outcome in ("ready", "failed")),
        *(
            (ENGINE_EXITS, (end,))
            for end in ("0", "over_memory", "stop_timed_out", "told_to", "SIGABRT", "SIGBUS", "SIGKILL", "SIGSEGV")
        ),
        *((LEASES_LOST, (kind,)) for kind in _KINDS),
        *_WAKES,
    ),
    "scheduler": (
        *((WORK_ENDED, ("job", outcome)) for outcome in ("failed", "cancelled")),
        *((LEASES_EXPIRED, (kind, outcome)) for kind in _KINDS for outcome in ("requeued", "failed")),
        *_WAKES,
    ),
}


def count_end(kind: Kind, outcome: str, error_code: str | None) -> None:
    """Count a piece of work that has come to its end."""
    WORK_ENDED.labels(kind, outcome).inc()
    if outcome == "failed":
        WORK_FAILED.labels(kind, error_code or "").inc()


def registry_of(services: Iterable[Service]) -> CollectorRegistry:
    """The metrics of a process of these parts, those that an alert counts at 0 from the start."""
    registry = CollectorRegistry()
    registry.register(_shared)
    for service in services:
        registry.register(_PARTS[service])
        for counter, labels in _ZEROS[service]:
            counter.labels(*labels)
    return registry

"""The names on which dashboards stand keep their names and labels: docs/gateway.md promises it."""

from prometheus_client import REGISTRY

import orchestrator.app  # noqa: F401 - declares every metric

STABLE = {
    "soundstage_http_requests_total": ("service", "route", "status"),
    "soundstage_http_request_seconds": ("service", "route"),
    "soundstage_http_requests_in_flight": ("service",),
    "soundstage_http_accepted_total": ("service",),
    "soundstage_http_ended_total": ("service", "outcome"),
    "soundstage_queue_depth": ("kind",),
    "soundstage_queue_position": ("ability",),
    "soundstage_queue_wait_seconds": ("ability",),
    "soundstage_admission_refused_total": ("ability", "reason"),
    "soundstage_time_to_first_token_seconds": ("ability",),
    "soundstage_inter_token_seconds": ("ability",),
    "soundstage_tokens_total": ("ability", "direction"),
    "soundstage_tokens_estimated_total": ("ability", "direction"),
    "soundstage_retries_total": ("ability",),
    "soundstage_relay_errors_total": ("reason",),
    "soundstage_workers": ("kind", "state"),
    "soundstage_worker_places": ("kind",),
    "soundstage_worker_outstanding": ("kind",),
    "soundstage_worker_breakers": ("kind", "state"),
    "soundstage_breaker_opened_total": ("kind",),
    "soundstage_runs_waiting": (),
    "soundstage_runs_dropped_total": (),
}
"""Each name with its labels. No label holds a model, a user or a key, so their number is bounded."""


def test_the_promised_names_are_exported_with_their_labels() -> None:
    exported = {
        name: tuple(collector._labelnames)  # type: ignore[attr-defined]
        for collector, names in REGISTRY._collector_to_names.items()
        for name in names
        if name in STABLE
    }
    assert exported == STABLE

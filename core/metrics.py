"""Prometheus metrics that every service exports. A metric is a module constant; its labels are bounded."""

from prometheus_client import Counter, Gauge, Histogram

OF_ALL_PROCESSES: set[str] = set()
"""Gauges of what all processes see alike, such as workers: of several on one port the largest is shown, not the sum."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

REQUESTS = Counter("soundstage_http_requests_total", "Requests answered.", ["service", "route", "status"])
DURATION = Histogram(
    "soundstage_http_request_seconds",
    "Seconds from the request's arrival to its last byte.",
    ["service", "route"],
    buckets=SECONDS,
)
ACCEPTED = Counter("soundstage_http_accepted_total", "Requests that came, whatever became of them.", ["service"])
ENDED = Counter(
    "soundstage_http_ended_total",
    "Requests that ended: finished, failed (a 5xx, a stream that broke), cancelled (the client left).",
    ["service", "outcome"],
)
TASKS = Gauge("soundstage_tasks", "Tasks of the event loop, those of the service itself with them.")
IN_FLIGHT = Gauge("soundstage_http_requests_in_flight", "Requests being answered.", ["service"])
CANCELLED = Counter(
    "soundstage_client_disconnects_total", "Requests whose client left before the answer ended.", ["service"]
)
RELAY_ERRORS = Counter("soundstage_relay_errors_total", "Relayed requests that failed, by reason.", ["reason"])
CHILD_STARTS = Counter("soundstage_child_starts_total", "Starts of a supervised child process.", ["child"])


def same_everywhere(gauge: Gauge) -> Gauge:
    """The gauge, which shows what every process sees alike."""
    OF_ALL_PROCESSES.update(family.name for family in gauge.describe())
    return gauge

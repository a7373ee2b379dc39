"""What the engine exports to Prometheus."""

import time

from prometheus_client import Counter, Gauge, Histogram

from image.async_engine import AsyncEngine, Observer
from image.events import LAST, Admitted
from image.messages import Counters, TurnReport
from image.request import RequestId

_IMAGES = Gauge("soundstage_image_requests", "Images in the engine now.", ["model", "state"])
_ENDED = Counter("soundstage_image_requests_ended_total", "Images that left the engine.", ["model", "outcome"])
_STEPS = Counter("soundstage_image_steps_total", "Denoising steps taken, one for each image.", ["model"])
_TOKENS = Counter("soundstage_image_tokens_total", "Tokens computed by the transformer.", ["model", "kind"])
_TURN = Histogram(
    "soundstage_image_turn_seconds",
    "Seconds of one turn: the transformer call and what finished with it.",
    ["model"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_PROGRESS = Gauge("soundstage_image_progress", "Share of the steps of the images here that are taken.", ["model"])
_PLACE = Histogram(
    "soundstage_image_queue_position",
    "How many images were waiting when one arrived.",
    ["model"],
    buckets=(0, 1, 2, 4, 8, 16, 32, 64),
)
_WAITED = Histogram(
    "soundstage_image_queue_seconds",
    "Seconds from an image's arrival until it ran.",
    ["model"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
_QUEUE = Gauge("soundstage_image_remaining_tokens", "Tokens to compute for the images that are here.", ["model"])
_CACHE = Gauge("soundstage_image_embedding_cache_bytes", "Prompt embeddings kept.", ["model"])
_MEMORY = Counter("soundstage_image_out_of_memory_total", "Times the device ran out of memory.", ["model"])


class Recorder(Observer):
    """Turns the engine's running totals into metrics, once a turn."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._before = Counters()
        self._arrived: dict[RequestId, float] = {}  # on the monotonic clock, of those that wait

    def watch(self, engine: AsyncEngine) -> None:
        """Let every scrape read the engine's gauges."""
        _IMAGES.labels(self._model, "running").set_function(lambda: engine.running)
        _IMAGES.labels(self._model, "waiting").set_function(lambda: engine.waiting)
        _PROGRESS.labels(self._model).set_function(lambda: engine.progress)
        _QUEUE.labels(self._model).set_function(lambda: engine.counters.remaining)
        _CACHE.labels(self._model).set_function(lambda: engine.counters.cached_bytes)

    def arrived(self, id: RequestId, before: int) -> None:
        _PLACE.labels(self._model).observe(before)
        self._arrived[id] = time.monotonic()

    def on_report(self, news: TurnReport) -> None:
        model, now = self._model, news.counters
        before = self._before if now.turns >= self._before.turns else Counters()  # the model was loaded anew
        self._before = now
        padding = now.padding - before.padding
        _STEPS.labels(model).inc(now.request_steps - before.request_steps)
        _TOKENS.labels(model, "padding").inc(padding)
        _TOKENS.labels(model, "real").inc(now.tokens - before.tokens - padding)
        _MEMORY.labels(model).inc(now.out_of_memory - before.out_of_memory)
        if now.turns > before.turns:
            _TURN.labels(model).observe(now.seconds - before.seconds)
        for id, event in news.events:
            arrived = self._arrived.pop(id, None)
            if arrived is not None and isinstance(event, Admitted):
                _WAITED.labels(model).observe(time.monotonic() - arrived)
            if isinstance(event, LAST):
                _ENDED.labels(model, type(event).__name__.lower()).inc()

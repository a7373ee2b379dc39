"""What the engine exports to Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from image.async_engine import AsyncEngine
from image.engine import Counters, News
from image.events import LAST

_IMAGES = Gauge("soundstage_image_requests", "Images in the engine now.", ["state"])
_ENDED = Counter("soundstage_image_requests_ended_total", "Images that left the engine.", ["outcome"])
_STEPS = Counter("soundstage_image_steps_total", "Denoising steps taken, one for each image.")
_TOKENS = Counter("soundstage_image_tokens_total", "Tokens computed by the transformer.", ["kind"])
_TURN = Histogram(
    "soundstage_image_turn_seconds",
    "Seconds of one turn: the transformer call and what finished with it.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Recorder:
    """Turns the engine's running totals into metrics, once a turn."""

    def __init__(self) -> None:
        self._before = Counters()

    def watch(self, engine: AsyncEngine) -> None:
        """Let every scrape read the engine's gauges."""
        _IMAGES.labels("running").set_function(lambda: engine.running)
        _IMAGES.labels("waiting").set_function(lambda: engine.waiting)

    def observe(self, news: News) -> None:
        before, now = self._before, news.counters
        self._before = now
        padding = now.padding - before.padding
        _STEPS.inc(now.request_steps - before.request_steps)
        _TOKENS.labels("padding").inc(padding)
        _TOKENS.labels("real").inc(now.tokens - before.tokens - padding)
        if now.turns > before.turns:
            _TURN.observe(now.seconds - before.seconds)
        for _, event in news.events:
            if isinstance(event, LAST):
                _ENDED.labels(type(event).__name__.lower()).inc()

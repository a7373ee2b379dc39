"""What became of requests, for whoever asks by the request's id. Bounded: the oldest are forgotten."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.errors import NotFound
from image.async_engine import AsyncEngine
from image.generation import Generation, Status, View
from image.request import RequestId

_ORDER: tuple[Status, ...] = ("failed", "cancelled", "running", "queued", "completed")


@dataclass(frozen=True)
class Entry:
    model: str
    created: int  # seconds since the epoch
    engine: AsyncEngine
    images: tuple[tuple[RequestId, View], ...]

    def report(self, id: str) -> dict[str, Any]:
        views = [view for _, view in self.images]
        positions = [self.engine.position(image) for image, _ in self.images]
        return {
            "id": id,
            "object": "image.request",
            "model": self.model,
            "created": self.created,
            "status": _together(views),
            "queue_position": min((p for p in positions if p is not None), default=None),
            "progress": round(sum(v.step for v in views) / sum(v.steps for v in views), 3),
            "images": [
                {
                    "image": image,  # its number in /debug/scheduler
                    "status": view.status,
                    "step": view.step,
                    "steps": view.steps,
                    "queue_position": position,
                    "error": view.error,
                }
                for (image, view), position in zip(self.images, positions, strict=True)
            ],
        }


def _together(views: Sequence[View]) -> Status:
    """Running as soon as one image runs, or some are done and others wait."""
    found = {view.status for view in views}
    if found == {"queued", "completed"}:
        return "running"
    return next(status for status in _ORDER if status in found)


class Ledger:
    def __init__(self, capacity: int = 1000) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def add(self, id: str, model: str, created: int, engine: AsyncEngine, images: Sequence[Generation]) -> None:
        """The newest of one id is the one that counts."""
        self._entries.pop(id, None)
        self._entries[id] = Entry(model, created, engine, tuple((g.id, g.view) for g in images))
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def report(self, id: str) -> dict[str, Any]:
        entry = self._entries.get(id)
        if entry is None:
            raise NotFound("No image request of this id is remembered.", param="id", code="request_not_found")
        return entry.report(id)

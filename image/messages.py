"""What goes into an engine and what comes out of it."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from core.errors import SoundstageError
from image.events import Event
from image.request import ImageRequest, RequestId
from image.scheduler import Decision

if TYPE_CHECKING:
    from image.pipelines.base import Abilities


@dataclass(frozen=True, slots=True)
class Submit:
    id: RequestId
    request: ImageRequest


@dataclass(frozen=True, slots=True)
class Cancel:
    id: RequestId


@dataclass(frozen=True, slots=True)
class AdapterChange:
    """Load an adapter or unload it; `done` is told, on the engine's thread, what went wrong or None."""

    name: str
    load: bool
    done: Callable[[SoundstageError | None], object]


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Command = Submit | Cancel | AdapterChange | Stop
CommandQueue = queue.SimpleQueue[Command]


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine has done since it started, and what is before it."""

    running: int = 0  # requests resident on the device now
    remaining: int = 0  # tokens to compute for the requests that are here now
    turns: int = 0  # transformer calls
    request_steps: int = 0
    tokens: int = 0  # computed, padding included: the work clock
    padding: int = 0
    seconds: float = 0.0  # spent computing
    pace: float = 0.0  # seconds a token, smoothed
    out_of_memory: int = 0  # times the device ran out of it
    cached_bytes: int = 0  # prompt embeddings kept
    cache_hits: int = 0
    cache_misses: int = 0
    step_tokens: int = 0  # most tokens in one step, as of now
    adapters: tuple[str, ...] = ()  # that are loaded
    decision: Decision | None = None  # the last one that chose a batch

    def reading(self, deadline: float | None, now: float) -> int | None:
        """A deadline in seconds as a reading of the work clock at the present pace; None where none is known."""
        return None if deadline is None or not self.pace else self.tokens + int((deadline - now) / self.pace)


@dataclass(frozen=True, slots=True)
class TurnReport:
    """What one turn has to tell."""

    events: tuple[tuple[RequestId, Event], ...]
    counters: Counters


Publish = Callable[[TurnReport], object]


class Runner(Protocol):
    """An engine as its thread sees it."""

    @property
    def abilities(self) -> Abilities: ...

    def run(self) -> None:
        """Until a Stop command has been read. Raises DeviceLost."""

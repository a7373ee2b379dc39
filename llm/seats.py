"""An engine as its requests see it: who is at it, who waits for it, whether it takes anybody."""

import asyncio
from dataclasses import dataclass, field

from core.errors import SoundstageError
from llm.engine import Engine


@dataclass(frozen=True)
class Bounds:
    """Seconds and numbers that no wait goes beyond. `budget` in bytes; None: a share of the device."""

    wait_seconds: float = 120.0
    waiting: int = 64
    drain_seconds: float = 60.0
    start_seconds: float = 900.0
    budget: int | None = None
    pinned: frozenset[str] = frozenset()


@dataclass
class Seat:
    """One engine as its requests see it."""

    engine: Engine
    pinned: bool
    decided: bool = False  # whether it was asked at the start if it fits
    in_flight: int = 0
    closing: bool = False
    switching: bool = False
    last_used: float = 0.0
    needs: int = 0  # bytes, measured once it was loaded
    asleep: int = 0  # bytes it keeps when it sleeps
    waiters: list["asyncio.Future[None]"] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def open(self) -> bool:
        return self.engine.state == "ready" and not self.closing

    def enter(self) -> None:
        self.in_flight += 1
        self.idle.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    def let_in(self) -> None:
        """Everyone who waits, at once: before another model can take this one's place."""
        for waiter in self.waiters:
            if not waiter.done():
                self.enter()
                waiter.set_result(None)
        self.waiters.clear()

    def refuse(self, error: SoundstageError) -> None:
        """Everyone who waits."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self.waiters.clear()

"""An engine as its requests see it: who is at it, who waits for it, whether it takes anybody."""

import asyncio
from dataclasses import dataclass, field

from core.waiting import Waiters
from llm.engine import Engine


@dataclass
class EngineQueue:
    """Belongs to the event loop."""

    engine: Engine
    pinned: bool
    decided: bool = False  # whether it was asked at the start if it fits
    in_flight: int = 0
    closing: bool = False
    switching: bool = False
    last_used: float = 0.0
    needs: int = 0  # bytes, measured once it was loaded
    asleep: int = 0  # bytes it keeps when it sleeps
    waiters: Waiters = field(default_factory=Waiters)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    @property
    def open(self) -> bool:
        return self.engine.state == "ready" and not self.closing

    def enter(self, count: int = 1) -> None:
        if count:
            self.in_flight += count
            self.idle.clear()

    def leave(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    def let_in(self) -> None:
        """Everyone who waits, at once: before another model can take this one's place."""
        self.enter(self.waiters.let_all_in())

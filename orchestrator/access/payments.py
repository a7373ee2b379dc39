"""What of an engine's work is paid: all that it did, once, however often the same work is asked for."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from core.errors import UpstreamTimeout


@dataclass
class Step:
    """A step of a run, which may be tried several times under one key: whether a process that is gone tried it (what it
    had set aside counts as used), and how many pictures this one has paid."""

    tried_elsewhere: bool
    pictures: int = 0


_step: ContextVar[Step | None] = ContextVar("step_paid", default=None)


@contextlib.contextmanager
def paying(step: Step) -> Iterator[None]:
    """What engines do within the block is done for this step."""
    before = _step.set(step)
    try:
        yield
    finally:
        _step.reset(before)


@dataclass
class Answer:
    """An engine's answer; `repeated`: it gave what it had made before, under the same key."""

    repeated: bool = False

    @property
    def paid(self) -> bool:
        """By a process that is gone."""
        step = _step.get()
        return self.repeated and step is not None and step.tried_elsewhere


@dataclass
class PictureCount(Answer):
    """The pictures of one call: how many were asked for, whether a worker began them, how many came."""

    asked: int = 1
    begun: bool = False
    came: int = 0

    def settle(self, error: BaseException | None = None) -> int:
        """How many are paid now; called once. A worker draws the pictures of a call together: where nobody waits any
        more, all of them were begun."""
        gone = isinstance(error, asyncio.CancelledError | UpstreamTimeout)
        drawn = self.asked if gone and self.begun else min(self.came, self.asked)
        step = _step.get()
        if step is None:
            return drawn
        before = drawn if self.paid else step.pictures if self.repeated else 0
        step.pictures = max(drawn, step.pictures) if self.repeated else step.pictures + drawn
        return max(0, drawn - before)

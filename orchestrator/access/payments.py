"""What of an engine's work is paid: all that it did, once, however often the same work is asked for."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


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
class EngineWork:
    """What an engine did for one call. `repeated`: it gave what it had made before, under the same key. Of pictures:
    how many were `asked` for, whether a worker has `begun` them, how many `came`."""

    repeated: bool = False
    asked: int = 0
    begun: bool = False
    came: int = 0

    @property
    def paid(self) -> bool:
        """By a process that is gone."""
        step = _step.get()
        return self.repeated and step is not None and step.tried_elsewhere

    def pictures(self, *, gone: bool) -> int:
        """How many are paid now; called once. A worker draws the pictures of a call together: where nobody waits for
        them any more (`gone`), all of them were begun."""
        drawn = self.asked if gone and self.begun else min(self.came, self.asked)
        step = _step.get()
        if step is None:
            return drawn
        before = drawn if self.paid else step.pictures if self.repeated else 0
        step.pictures = max(drawn, step.pictures) if self.repeated else step.pictures + drawn
        return max(0, drawn - before)

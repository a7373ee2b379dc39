"""Whether a worker is asked at all, from what became of its requests. Pure: outcomes and times in, a state out."""

import math
from dataclasses import dataclass

WEIGHT = 0.25  # of the newest outcome: three failures in a row open a breaker that was closed
OPENS_ABOVE = 0.5
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0


@dataclass
class Breaker:
    """Closed: the worker is asked. Open: it is not, for a while. Half open: one request tries it. `failing` is a moving
    share of failures. Times are of any clock that does not go back, in seconds."""

    failing: float = 0.0
    open_until: float | None = None
    trying: bool = False
    unreached: bool = False  # it is open because nobody answered, not because of what was answered
    _opened: int = 0  # how often without a success between

    def state(self, now: float) -> str:
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half_open"

    def lets_in(self, now: float) -> bool:
        return self.open_until is None or (now >= self.open_until and not self.trying)

    def begins(self, now: float) -> None:
        """A request goes to it."""
        self.trying = self.state(now) == "half_open"

    def succeeded(self) -> None:
        self.failing -= WEIGHT * self.failing
        if self.trying or self.open_until is not None:
            self.failing = 0.0
        self.open_until, self.trying, self.unreached, self._opened = None, False, False, 0

    def answered(self) -> bool:
        """A probe of it was answered: who was left alone because nobody answered is asked again. Whether it closed."""
        if not self.unreached or self.trying:
            return False
        self.succeeded()
        return True

    def abandoned(self) -> None:
        """The request ended without telling anything: its client left."""
        self.trying = False

    def failed(self, now: float, *, surely: bool = False, unreached: bool = False) -> float | None:
        """Seconds for which it is open now, if it is. `surely`: nobody listens there, so one failure is enough;
        `unreached`: nobody answered there."""
        self.failing = 1.0 if surely else self.failing + WEIGHT * (1.0 - self.failing)
        if self.failing <= OPENS_ABOVE and not self.trying:
            return None
        self.trying = False
        if self.open_until is not None and now < self.open_until:
            return None  # others that were on their way: counted once
        seconds = min(math.ldexp(FIRST_SECONDS, self._opened), LONGEST_SECONDS)
        self._opened = min(self._opened + 1, 10)
        self.open_until, self.unreached = now + seconds, surely or unreached
        return seconds

"""What happens when every worker is full. Pure: how long a caller is told to wait."""

from typing import NamedTuple

SMOOTHING = 0.1
FIRST_GUESS_SECONDS = 1.0


class ServiceTime(NamedTuple):
    """A moving mean of how long a request holds its place, in seconds."""

    mean: float = FIRST_GUESS_SECONDS

    def after(self, seconds: float) -> "ServiceTime":
        return ServiceTime(self.mean + SMOOTHING * (seconds - self.mean))


def retry_after(service: ServiceTime, outstanding: int, capacity: int, cap: float) -> float:
    """Seconds until a place is likely free: the mean time a place is held, over the places there are.

    Bounded to [1, cap].
    """
    expected = service.mean * max(1.0, outstanding / max(1, capacity)) / max(1, capacity)
    return min(max(1.0, expected), cap)

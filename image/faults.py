"""What happens when the device refuses: memory is freed, the work is split, and only culprits fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from core.device.lost import lost_by
from core.errors import SoundstageError, internal

log = logging.getLogger(__name__)

T = TypeVar("T")


class OutOfMemory(SoundstageError):
    """One request alone is more than the device holds, with every cache empty."""

    status = 503
    type = "service_unavailable"


class Faults:
    """Runs device work for a group of requests so that nobody fails for another's fault."""

    def __init__(self, free_memory: Callable[[], None], shrink: Callable[[], None]) -> None:
        """`free_memory` empties caches; `shrink` makes later groups smaller."""
        self._free_memory = free_memory
        self._shrink = shrink
        self.out_of_memory = 0  # times the device said so

    def run(
        self,
        group: Sequence[T],
        act: Callable[[Sequence[T]], None],
        fail: Callable[[T, SoundstageError], None],
        name: Callable[[T], int],
    ) -> None:
        """Act on the group; if that raises, on parts of it; a single one that still raises fails.

        Out of memory: free, try again, then halves. Anything else: each alone. `act` changes nothing if it raises.
        Raises DeviceLost where nothing can be tried any more.
        """
        if not group:
            return
        try:
            act(group)
            return
        except Exception as exc:  # noqa: BLE001 - whatever a model may raise
            error = exc
        _go_on_after(error)
        if is_out_of_memory(error):
            self.out_of_memory += 1
            log.warning("the device is out of memory", extra={"images": len(group)})
            self._free_memory()
            error.__traceback__ = None  # its frames hold tensors
            if (again := _attempt(act, group)) is None:
                return
            error = again
            _go_on_after(error)
            self._shrink()
        if len(group) == 1:
            fail(group[0], as_ours(error, image_request=name(group[0])))
            return
        for part in _parts(group, error):
            self.run(part, act, fail, name)


def _go_on_after(error: Exception) -> None:
    if lost := lost_by(error):
        raise lost from error


def _attempt(act: Callable[[Sequence[T]], None], group: Sequence[T]) -> Exception | None:
    try:
        act(group)
    except Exception as exc:  # noqa: BLE001 - as in run
        return exc
    return None


def _parts(group: Sequence[T], error: Exception) -> list[Sequence[T]]:
    if is_out_of_memory(error):
        half = len(group) // 2
        return [group[:half], group[half:]]
    return [[one] for one in group]


def as_ours(exc: Exception, **about: object) -> SoundstageError:
    """What a caller is told; what is nobody's business is logged with what it is `about`."""
    if isinstance(exc, SoundstageError):
        return exc
    from image.pipelines.base import NotFinite

    if isinstance(exc, NotFinite):
        return not_finite()
    if is_out_of_memory(exc):
        return OutOfMemory("The image needs more memory than the device has.", code="out_of_memory")
    log.error("the engine could not do it", exc_info=exc, extra=about)
    return internal()


def not_finite() -> SoundstageError:
    return SoundstageError("The image is not finite.", code="not_finite")


def is_out_of_memory(exc: Exception) -> bool:
    from image.pipelines import memory  # torch is loaded by now

    return memory.is_out_of_memory(exc)

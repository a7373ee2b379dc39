"""Micro-batching: one thread owns the device; what waits when it is free goes together, and nothing waits for company.

How much can wait is bounded by who calls (vision/worker.py).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from core.device.lost import DeviceLost, lost_by
from vision import metrics

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0

Job = TypeVar("Job")
Result = TypeVar("Result")


class MicroBatcher(Generic[Job, Result]):
    """`work` takes up to `most` jobs and returns their results in order. It is called from one thread."""

    def __init__(self, work: Callable[[Sequence[Job]], list[Result]], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[tuple[Job, Future[Result]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._lost: DeviceLost | None = None
        self._thread = threading.Thread(target=self._serve, name="vision-device", daemon=True)
        self._thread.start()

    async def run(self, job: Job) -> Result:
        """The job's result. One that is cancelled while it waits is never started. Raises DeviceLost."""
        future: Future[Result] = Future()
        with self._changed:
            if self._lost is not None:
                raise self._lost
            self._waiting.append((job, future))
            metrics.WAITING.set(len(self._waiting))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    async def watch(self) -> None:
        """Until cancelled, or the thread has ended: then whoever waits would wait for ever."""
        while self._thread.is_alive():  # noqa: ASYNC110 - a thread sets no event as it dies
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Wait for what runs; nothing starts any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        """take → work → answer, until closed or the device is lost: then it ends, and the process with it."""
        while batch := self._next():
            metrics.BATCH.observe(len(batch))
            try:
                self._answer(batch)
            except DeviceLost as lost:
                log.critical("the device is lost", exc_info=lost)
                self._lose(lost, [future for _, future in batch if not future.done()])
                return

    def _lose(self, lost: DeviceLost, running: list[Future[Result]]) -> None:
        with self._changed:
            self._lost = lost
            waiting = [future for _, future in self._waiting if future.set_running_or_notify_cancel()]
            self._waiting.clear()
        for future in (*running, *waiting):
            future.set_exception(lost)

    def _next(self) -> list[tuple[Job, Future[Result]]]:
        """What waits, up to the most; empty once closed."""
        batch: list[tuple[Job, Future[Result]]] = []
        with self._changed:
            while not batch:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return []
                while self._waiting and len(batch) < self._most:
                    job, future = self._waiting.popleft()
                    if future.set_running_or_notify_cancel():
                        batch.append((job, future))
                metrics.WAITING.set(len(self._waiting))
        return batch

    def _answer(self, batch: list[tuple[Job, Future[Result]]]) -> None:
        """A batch that fails is tried one by one: a bad job fails alone. Raises DeviceLost."""
        try:
            results = self._work([job for job, _ in batch])
        except Exception as exc:  # this thread's outermost: it fails those jobs and carries on where it can
            if lost := lost_by(exc):
                raise lost from exc
            if len(batch) == 1:
                batch[0][1].set_exception(exc)
                return
            for one in batch:
                self._answer([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)

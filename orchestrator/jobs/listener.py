"""What the database tells all orchestrators: that a run did something, that it ended, that jobs were queued."""

import asyncio
import contextlib

import psycopg

from core.db.connection import listener
from orchestrator.jobs.dispatch import Dispatcher
from orchestrator.jobs.executor import Executor
from orchestrator.jobs.followers import Followers

RETRY_SECONDS = 0.5


class Listener:
    """Hears it over a connection of its own, and wakes whom it concerns here."""

    def __init__(self, dsn: str, followers: Followers, executor: Executor, dispatcher: Dispatcher) -> None:
        self._dsn = dsn
        self._followers = followers
        self._executor = executor
        self._dispatcher = dispatcher

    async def listen(self) -> None:
        """Until cancelled. While the connection is broken, everyone looks by themselves."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError, TimeoutError):
                async with await listener(self._dsn) as connection:
                    await connection.execute("listen soundstage_jobs")
                    self._followers.wake_all()  # what happened before was not heard
                    async for news in connection.notifies():
                        self._hear(news.payload)
            await asyncio.sleep(RETRY_SECONDS)

    def _hear(self, news: str) -> None:
        """`ended JOB`, `queued POOL`, or the id of a job that did something."""
        what, _, subject = news.partition(" ")
        if what == "queued":
            self._dispatcher.wake(subject)
        elif what == "ended":
            self._executor.cancel_here(subject)
            self._followers.wake(subject)
            self._dispatcher.wake()
        elif self._executor.way(news) is None:
            self._followers.wake(news)

"""One chat worker with two fake engines for the tests that leave it as it was."""

from collections.abc import AsyncIterator

import pytest

from tests.fakes.chat_worker import ChatWorker, base, chat_worker, instruct


@pytest.fixture(scope="session")
async def worker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ChatWorker]:
    folder = tmp_path_factory.mktemp("chat-worker")
    async with chat_worker(folder, [instruct(folder), base(folder)]) as running:
        yield running

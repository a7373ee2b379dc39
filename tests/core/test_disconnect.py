"""Work that a client asked for ends when the client leaves, and only then."""

import asyncio

import pytest
from starlette.types import Message

from core.http.disconnect import ClientDisconnected, until_disconnect
from tests.fakes.wait import soon

LEFT: Message = {"type": "http.disconnect"}


class Client:
    """The receiving half of an ASGI connection."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.watched = asyncio.Event()

    async def receive(self) -> Message:
        self.watched.set()
        return await self._messages.get()

    def say(self, message: Message) -> None:
        self._messages.put_nowait(message)


async def test_leaving_cancels_the_work_and_raises_in_its_place() -> None:
    client, cleaned = Client(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    client.say(LEFT)
    with pytest.raises(ClientDisconnected), until_disconnect(client.receive):
        await soon(work())
    assert cleaned.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the request's task lives on: it has an answer to record"


async def test_other_messages_are_no_reason() -> None:
    client, done = Client(), asyncio.Event()
    client.say({"type": "http.request", "body": b"late"})
    with until_disconnect(client.receive):
        await soon(client.watched.wait())
        asyncio.get_running_loop().call_soon(done.set)
        await soon(done.wait())


async def test_the_result_and_the_error_of_the_work_pass() -> None:
    async def work() -> int:
        with until_disconnect(Client().receive):
            return 7

    assert await work() == 7
    with pytest.raises(KeyError), until_disconnect(Client().receive):
        raise KeyError


async def test_nobody_watches_afterwards() -> None:
    client = Client()
    before = asyncio.all_tasks()
    with until_disconnect(client.receive):
        await soon(client.watched.wait())
    client.say(LEFT)
    await asyncio.sleep(0)  # the watch is cancelled: its task ends in the next turn of the loop
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_a_message_in_the_turn_in_which_the_work_ends_is_dropped_quietly() -> None:
    """uvicorn says `http.disconnect` when the answer is out, which is when most work ends."""
    client, complaints = Client(), list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        with until_disconnect(client.receive):
            await soon(client.watched.wait())
            client.say(LEFT)
        for _ in range(3):
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert complaints == []


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    client = Client()

    async def work() -> None:
        with until_disconnect(client.receive):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await soon(client.watched.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


async def test_an_error_while_leaving_is_the_error_and_leaves_no_cancellation_behind() -> None:
    client = Client()
    client.say(LEFT)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError from None

    with pytest.raises(KeyError), until_disconnect(client.receive):
        await soon(work())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_timeout_inside_is_a_timeout() -> None:
    with pytest.raises(TimeoutError), until_disconnect(Client().receive):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

"""Limits of keys and tenants: never overspent, shared by orchestrators, and settled by what was really used."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest

from core.db.pool import Pool, open_pool
from core.errors import Unavailable
from orchestrator.access.keys import Key
from orchestrator.access.limits import Limits, Needs, Quota, RateLimited, TooManyAtOnce
from orchestrator.access.quotas import Entry, Quotas
from tests.fakes.cable import cable
from tests.fakes.client import connected, request
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers

DAYS = 366  # of a budget: no test is likely to meet its period's end


def key_of(key_id: str = "k", tenant_limits: Limits | None = None, **limits: int) -> Key:
    return Key(key_id, "default", frozenset({"chat"}), 1, None, Limits(**limits), tenant_limits or Limits())


@pytest.fixture
async def pool(migrated_dsn: str) -> AsyncIterator[Pool]:
    async with open_pool(migrated_dsn, size=4, wait_seconds=60) as opened:
        yield opened


async def entered(quotas: Quotas, key: Key, needs: Needs) -> int:
    """1 where it was let in."""
    try:
        await quotas.enter(key, needs)
    except RateLimited:
        return 0
    return 1


@pytest.mark.parametrize("most", [1, 7, 1000])
async def test_many_at_once_at_several_orchestrators_never_overspend(pool: Pool, most: int) -> None:
    several = [Quotas(pool) for _ in range(3)]
    key = key_of(budget_tokens=10 * most, budget_days=DAYS)
    found = await asyncio.gather(*(entered(several[at % 3], key, Needs(tokens=10)) for at in range(3 * most + 30)))
    assert 0 < sum(found) <= most
    assert sum(found) >= most - 3 * max(1, most // 50), "what others hold and do not use is all that is lost"


class LateQuotas(Quotas):
    """The database answers each second question three seconds late."""

    asked = 0

    async def _ask(self, owner: str, quota: Quota, wanted: int) -> dict[str, Any]:
        row = await super()._ask(owner, quota, wanted)
        self.asked += 1
        return {**row, "ends_in": row["ends_in"] - 3 * (self.asked % 2)}


async def test_a_late_answer_of_the_database_is_no_new_period(pool: Pool) -> None:
    quotas, key = LateQuotas(pool), key_of(budget_tokens=1000, budget_days=DAYS)
    first = await quotas.enter(key, Needs(tokens=30))
    assert sum([await entered(quotas, key, Needs(tokens=15)) for _ in range(100)]) == 64, "970 are left"
    first.leave(Needs(tokens=0))
    assert sum([await entered(quotas, key, Needs(tokens=15)) for _ in range(100)]) == 2, "30 came back, 10 were left"


class AnsweredQuotas(Quotas):
    """Where the database has answered, nobody hears it before `heard` is set."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.answered, self.heard = asyncio.Event(), asyncio.Event()

    async def _ask(self, owner: str, quota: Quota, wanted: int) -> dict[str, Any]:
        row = await super()._ask(owner, quota, wanted)
        self.answered.set()
        await self.heard.wait()
        return row


async def test_what_was_taken_for_one_who_left_meanwhile_is_given_to_others(pool: Pool) -> None:
    quotas, key = AnsweredQuotas(pool), key_of(budget_tokens=1000, budget_days=DAYS)
    leaving = asyncio.create_task(quotas.enter(key, Needs(tokens=20)))
    await quotas.answered.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    quotas.heard.set()
    assert sum([await entered(quotas, key, Needs(tokens=20)) for _ in range(60)]) == 50


async def test_what_was_not_needed_comes_back_and_what_was_lacking_is_owed(pool: Pool) -> None:
    quotas, key = Quotas(pool), key_of(budget_tokens=100, budget_days=DAYS)
    first = await quotas.enter(key, Needs(tokens=100))
    assert not await entered(quotas, key, Needs(tokens=1))
    first.leave(Needs(tokens=30))
    second = await quotas.enter(key, Needs(tokens=70))
    second.leave(Needs(tokens=90))  # more than was thought
    assert not await entered(quotas, key, Needs(tokens=1))


async def test_a_part_of_a_request_takes_what_it_may_need_and_gives_the_rest_back(pool: Pool) -> None:
    quotas, key = Quotas(pool), key_of(budget_tokens=100, budget_days=DAYS, concurrent=1)
    beside = key_of(budget_tokens=100, budget_days=DAYS)
    whole = await quotas.enter(key, Needs())
    for used in (30, 40):
        part = Entry(quotas, key)
        await part.reach(Needs(0, 60))
        assert not await entered(quotas, beside, Needs(tokens=60)), "it is taken meanwhile"
        part.leave(Needs(0, used))
    with pytest.raises(RateLimited):
        await Entry(quotas, key).reach(Needs(0, 31))
    await whole.reach(Needs(0, 20))
    await whole.reach(Needs(0, 30))
    with pytest.raises(RateLimited):
        await whole.reach(Needs(0, 31))
    whole.leave(Needs(1, 25))
    whole.leave(Needs(1, 25))
    assert await entered(quotas, beside, Needs(tokens=5))
    assert not await entered(quotas, beside, Needs(tokens=1))


async def test_a_shutdown_gives_back_what_is_held(pool: Pool) -> None:
    key = key_of(budget_tokens=100, budget_days=DAYS)
    one = Quotas(pool)
    keeping = asyncio.ensure_future(one.keep())
    entry = await one.enter(key, Needs(tokens=100))
    entry.leave(Needs(tokens=40))
    await asyncio.sleep(0)
    keeping.cancel()
    await asyncio.wait([keeping])
    assert await entered(Quotas(pool), key, Needs(tokens=60))


async def test_a_tenants_keys_share_its_limit(pool: Pool) -> None:
    quotas, shared = Quotas(pool), Limits(budget_tokens=100, budget_days=DAYS)
    found = [await entered(quotas, key_of(f"k-{at}", shared), Needs(tokens=40)) for at in range(4)]
    assert found == [1, 1, 0, 0]


async def test_one_that_is_refused_by_the_tenants_limit_takes_nothing_of_the_keys(pool: Pool) -> None:
    quotas, shared = Quotas(pool), Limits(budget_tokens=10, budget_days=DAYS)
    key = key_of("k", shared, budget_tokens=100, budget_days=DAYS, concurrent=1)
    for _ in range(3):
        assert not await entered(quotas, key, Needs(tokens=50))
    assert await entered(quotas, key_of("k", None, budget_tokens=100, budget_days=DAYS), Needs(tokens=100))


async def test_so_many_at_once(pool: Pool) -> None:
    quotas, key = Quotas(pool), key_of(concurrent=2)
    entries = [await quotas.enter(key, Needs()) for _ in range(2)]
    with pytest.raises(TooManyAtOnce):
        await quotas.enter(key, Needs())
    entries[0].leave(Needs())
    await quotas.enter(key, Needs())


async def test_a_limit_that_is_reached_is_not_asked_for_again(pool: Pool) -> None:
    quotas, key = Quotas(pool), key_of(budget_tokens=5, budget_days=DAYS)
    await quotas.enter(key, Needs(tokens=5))
    assert not await entered(quotas, key, Needs(tokens=5))
    quotas._pool = None  # type: ignore[assignment]  # whoever asks the database now fails
    assert not await entered(quotas, key, Needs(tokens=5))


async def test_without_the_database_what_is_held_is_given_out_and_then_it_is_said(
    migrated_dsn: str, tmp_path: Path
) -> None:
    async with cable(migrated_dsn, tmp_path) as line, open_pool(line.dsn, size=1) as opened:
        quotas, key = Quotas(opened), key_of(requests_per_minute=500)
        await quotas.enter(key, Needs())
        line.cut()
        for _ in range(9):
            await quotas.enter(key, Needs())
        with pytest.raises(Unavailable) as caught:
            await quotas.enter(key, Needs())
        assert caught.value.code == "database_unavailable"


# -- by HTTP ----------------------------------------------------------------------------------------------------------

CHAT = {"model": "small", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 2}


async def limited(studio: Studio, **limits: int) -> str:
    body = {"name": "an app", "scopes": ["chat", "images", "pipelines"], "limits": limits}
    secret: str = (await studio.post("/v1/keys", body)).json()["secret"]
    return secret


@pytest.mark.slow
async def test_two_orchestrators_share_a_limit(migrated_dsn: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(studio_over(migrated_dsn, tmp_path)) for _ in range(2)]
        for studio in several:
            await studio.chat_worker()
        key = await limited(several[0], requests_per_minute=4)
        answers = [await several[at % 2].post("/v1/chat/completions", CHAT, key=key) for at in range(8)]
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        let_in = next(answer for answer in answers if answer.status_code == 200)
        assert let_in.headers["x-ratelimit-limit-requests"] == "4"
        assert let_in.headers["x-ratelimit-remaining-requests"] in "0123"
        with pytest.raises(openai.RateLimitError):
            await several[0].sdk(key).chat.completions.create(**CHAT)  # type: ignore[call-overload]


@pytest.mark.slow
async def test_a_budget_is_settled_by_what_an_answer_took(studio: Studio) -> None:
    await studio.chat_worker()
    key = await limited(studio, budget_tokens=400, budget_days=DAYS)
    answers = [await studio.post("/v1/chat/completions", CHAT, key=key) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}, "each takes few, whatever it might have taken"
    spent = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
    assert answers[-1].headers["x-ratelimit-remaining-budget"] is not None
    while (answer := await studio.post("/v1/chat/completions", CHAT, key=key)).status_code == 200:
        spent += answer.json()["usage"]["total_tokens"]
        assert spent <= 400
    assert answer.json()["error"]["code"] == "budget_exceeded"


@pytest.mark.slow
async def test_who_is_refused_is_told_what_is_left(studio: Studio) -> None:
    key = await limited(studio, tokens_per_minute=20)
    refused = await studio.post("/v1/chat/completions", CHAT, key=key)
    assert (refused.status_code, refused.headers["x-ratelimit-limit-tokens"]) == (429, "20")
    assert refused.headers["x-ratelimit-remaining-tokens"] == "20"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


@pytest.mark.slow
async def test_who_comes_is_let_in_though_all_other_connections_are_taken(studio: Studio, migrated_dsn: str) -> None:
    await studio.chat_worker()
    assert (await studio.post("/v1/chat/completions", CHAT)).status_code == 200, "what is asked once is remembered"
    key = await limited(studio, requests_per_minute=9, concurrent=3)
    async with await psycopg.AsyncConnection.connect(migrated_dsn) as holder:
        await holder.execute("lock table recipes in access exclusive mode")
        waiting = [asyncio.ensure_future(studio.get("/v1/prompts")) for _ in range(12)]
        query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

        async def all_taken() -> bool:
            async with await psycopg.AsyncConnection.connect(migrated_dsn) as looking:
                row = await (await looking.execute(query)).fetchone()
            return row is not None and row[0] >= 8

        await answers(all_taken, "connections that wait")
        answer = await studio.post("/v1/chat/completions", CHAT, key=key)
    assert answer.status_code == 200, answer.text
    assert {each.status_code for each in await asyncio.gather(*waiting)} <= {200, 503}


@pytest.mark.slow
async def test_every_route_that_works_says_what_is_left(studio: Studio) -> None:
    await studio.chat_worker()
    key = await limited(studio, requests_per_minute=9)
    body = {"messages": CHAT["messages"], "model": "qwen_instruct", "max_tokens": 2}
    answer = await studio.post("/generate", body, key=key)
    assert (answer.status_code, answer.headers["x-ratelimit-limit-requests"]) == (200, "9")
    assert answer.headers["x-ratelimit-remaining-requests"] == "8"


@pytest.mark.slow
async def test_an_enhancement_over_the_budget_is_refused_not_left_as_it_was(studio: Studio) -> None:
    worker = await studio.chat_worker()
    key = await limited(studio, budget_tokens=50, budget_days=DAYS)
    answer = await studio.post("/enhance", {"prompt": "a cat on a wall", "job_type": "sdxl_image_fast"}, key=key)
    assert (answer.status_code, answer.headers["x-ratelimit-limit-budget"]) == (429, "50"), answer.text
    assert await worker.received() == []


@pytest.mark.slow
async def test_who_leaves_before_an_answer_begins_has_used_its_prompt(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(first_token_seconds=30)

    async def works(number: int) -> bool:
        return bool((await worker.state())["running"] == number)

    key = await limited(studio, budget_tokens=1000, budget_days=DAYS)
    body = {"model": "small", "messages": [{"role": "user", "content": "word " * 80}], "max_tokens": 2}
    prompt = len(json.dumps(body).encode()) // 4
    head = [(b"authorization", b"Bearer " + key.encode())]
    async with connected(studio.port) as client:
        await client.send(request(b"POST", b"/v1/chat/completions", head, json.dumps(body).encode()))
        await answers(lambda: works(1))
        client.leave()
    await answers(lambda: works(0))
    await worker.behave(first_token_seconds=0)
    answer = await studio.post("/v1/chat/completions", CHAT, key=key)
    left = int(answer.headers["x-ratelimit-remaining-budget"])
    reserved = 1000 - prompt - left
    assert 2 < reserved < 200, "what this answer may take, and nothing else"


@pytest.mark.slow
async def test_images_are_counted_by_their_number(studio: Studio) -> None:
    await studio.image_worker()
    key = await limited(studio, images_per_minute=5)
    body = {"prompt": "a red ball", "n": 2}
    statuses = [(await studio.post("/v1/images/generations", body, key=key)).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_another_length_of_a_budget_and_back_forgets_nothing(pool: Pool) -> None:
    """Of a key and of a tenant: what was spent in the days of a period is spent, however long the period is called."""
    assert await entered(Quotas(pool), key_of(budget_tokens=100, budget_days=DAYS), Needs(tokens=90))
    left: dict[int, int] = {}
    for days in (30, 1, 7, DAYS):
        quotas, key = Quotas(pool), key_of(budget_tokens=100, budget_days=days)
        left[days] = sum([await entered(quotas, key, Needs(tokens=10)) for _ in range(2)])
    assert left == {30: 1, 1: 0, 7: 0, DAYS: 0}


async def test_what_comes_back_of_a_budget_can_be_spent_in_any_length(pool: Pool) -> None:
    quotas, key = Quotas(pool), key_of(budget_tokens=100, budget_days=DAYS)
    entry = await quotas.enter(key, Needs(tokens=100))
    entry.leave(Needs(tokens=40))
    await quotas._give_back()
    other = key_of(budget_tokens=100, budget_days=30)
    assert [await entered(Quotas(pool), other, Needs(tokens=amount)) for amount in (60, 1)] == [1, 0]


async def test_days_that_are_over_are_not_of_the_period(pool: Pool) -> None:
    yesterday = "floor(extract(epoch from now()) / 86400) - 1"
    query = f"insert into budget_days (owner, day, used) select 'key:k', {yesterday}, 90".encode()
    async with pool.connection() as connection:
        await connection.execute(query)
    assert await entered(Quotas(pool), key_of(budget_tokens=100, budget_days=1), Needs(tokens=100))


async def test_changing_the_days_of_a_keys_budget_forgives_nothing(studio: Studio) -> None:
    await studio.chat_worker()
    made = (await studio.post("/v1/keys", {"name": "k", "scopes": ["chat"]})).json()
    headers = {"authorization": f"Bearer {studio.key}"}
    refused = []
    for days in (DAYS, 30, DAYS):
        body = {"limits": {"budget_tokens": 60, "budget_days": days}}
        assert (await studio.http.patch(f"/v1/keys/{made['id']}", json=body, headers=headers)).status_code == 200
        for _ in range(8):
            chat = {"model": "small", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 20}
            answer = await studio.post("/v1/chat/completions", chat, key=made["secret"])
            if answer.status_code == 429:
                break
        refused.append((answer.status_code, answer.json()["error"]["code"]))
        assert len(refused) == 1 or _ == 0, "the budget was spent before its days were changed"
    assert refused == [(429, "budget_exceeded")] * 3

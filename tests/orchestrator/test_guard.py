"""The guard: a second opinion that can refuse and never allow, and whose silence is a refusal."""

import json
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import respx
from msgspec.structs import replace

from orchestrator.policy import guard
from orchestrator.policy.decide import CHECK_FAILED, Decision
from orchestrator.policy.guard import Guard, GuardSettings, OpinionError, by_moderations, by_words, pieces
from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.static import announcement_of, workers_of
from prompts.registry import Registry
from tests.fakes.engines import URL, mocked_engines, pool_of
from tests.fakes.studio import Studio, studio_over
from tests.fakes.workers import BAD, MODERATIONS, GuardModel

WORDS: list[tuple[str, int, set[str]]] = [
    ("safe", 0, set()),
    ("Safety: Safe\nCategories: None", 1, set()),
    ("unsafe\nS4,S12", 2, {"sexual/minors"}),
    ("unsafe\nS12", 1, {"sexual"}),
    ("unsafe\nS12", 2, set()),
    ("\n\nunsafe\nS1", 2, {"guard/s1"}),
    ("unsafe", 2, {"guard"}),
    ("Safety: Unsafe\nCategories: Violent, Sexual Content or Sexual Acts", 2, {"guard/violent"}),
    ("Safety: Controversial\nCategories: Politically Sensitive Topics", 1, {"guard/politically-sensitive-topics"}),
    ("Safety: Controversial\nCategories: Politically Sensitive Topics", 2, set()),
    ("controversial\nS4", 2, {"sexual/minors"}),
]


@pytest.mark.parametrize(("text", "tier", "wanted"), WORDS)
def test_a_verdict_in_words(text: str, tier: int, wanted: set[str]) -> None:
    assert by_words(text, tier) == wanted


def test_a_verdict_of_moderations() -> None:
    def said(flagged: bool, **categories: Any) -> dict[str, Any]:
        return {"flagged": flagged, "categories": categories}

    fine = said(False, sexual=False)
    assert by_moderations({"results": [fine, fine]}, 2, 0) == set()
    assert by_moderations({"results": [fine, said(True, sexual=True, hate=False)]}, 2, 1) == {"sexual"}
    assert by_moderations({"results": [said(True, sexual=True)]}, 1, 2) == set()
    assert by_moderations({"results": [said(True, **{"sexual": True, "sexual/minors": True})]}, 1, 2) == {
        "sexual/minors"
    }
    assert by_moderations({"results": [said(True)]}, 1, 2) == {"guard"}
    assert by_moderations({"results": [said(True, **{"Ein Wort\r\nx": True})]}, 1, 0) == {"ein-wort-x"}


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"results": []}, {"results": ["x"]}, {"results": [{"flagged": "no"}]}]
)
def test_what_is_no_opinion(answer: Any) -> None:
    with pytest.raises(OpinionError):
        by_moderations(answer, 1, 0)
    with pytest.raises(OpinionError):
        by_words("I cannot say.", 0)


@pytest.mark.parametrize("length", [0, 1, guard.PIECE, guard.PIECE + 1, 5 * guard.PIECE])
def test_pieces_hold_every_passage_whole(length: int) -> None:
    text = "".join(chr(0x4E00 + at % 5000) for at in range(length))
    found = pieces(text)
    assert all(len(piece) <= guard.PIECE for piece in found)
    for start in range(0, max(1, length - guard.OVERLAP), 97):
        assert any(text[start : start + guard.OVERLAP] in piece for piece in found)


async def hear(studio: Studio, model: GuardModel) -> None:
    """The guard as a worker of this studio."""
    await studio.start(model, "guard", models=[{"id": "guard", "abilities": ["moderations", "chat"]}])


async def said(studio: Studio, text: str, path: str = "relayed") -> httpx2.Response:
    messages = [{"role": "user", "content": text}]
    how: dict[str, tuple[str, dict[str, Any]]] = {
        "relayed": ("/v1/chat/completions", {"model": "small", "messages": messages}),
        "recipe": ("/v1/chat/completions", {"prompt": {"id": "chat_conversation"}, "messages": messages}),
        "response": ("/v1/responses", {"model": "small", "input": text}),
        "image": ("/v1/images/generations", {"prompt": text}),
    }
    return await studio.post(how[path][0], how[path][1], headers={"traceparent": TRACE})


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("setting", ["guard_model", "guard_recipe"])
async def test_a_guard_refuses_what_the_lists_allow(migrated_dsn: str, tmp_path: Path, setting: str) -> None:
    given: dict[str, Any] = {setting: "guard", "guard_seconds": 2.0}
    async with studio_over(migrated_dsn, tmp_path, **given) as studio:
        worker, model = await studio.proving_worker(), GuardModel()
        pictures = await studio.image_worker()
        await hear(studio, model)
        wanted = "violence" if setting == "guard_model" else "guard/s1"
        for path in ("relayed", "recipe", "response", "image"):
            before = len(model.asked)
            assert (await said(studio, "a quiet lake", path)).status_code == 200
            assert model.headers[-1]["traceparent"] == TRACE
            assert len(model.asked) == before + 1, path
            ran = len(worker.received), len(pictures.received)
            refused = await said(studio, f"a {BAD} lake", path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, wanted)
            assert refused.headers["x-policy"].startswith("policy@1+guard:guard; ")
            assert BAD not in refused.text
            assert (len(worker.received), len(pictures.received)) == ran
        asked = len(model.asked)
        assert (await said(studio, "a zzexplicit lake")).status_code == 422
        assert len(model.asked) == asked, "what is refused already is not asked about"
        found = (await studio.post("/v1/moderations", {"input": ["a lake", f"a {BAD}"]})).json()["results"]
        assert [result["flagged"] for result in found] == [False, True]
        calls, words = len(model.received), "fine words. " * 22_000
        assert (await said(studio, words + BAD)).status_code == 422
        number = len(pieces(words))
        assert number > guard.IN_ONE_CALL
        assert len(model.received) - calls == (2 if setting == "guard_model" else number), (
            "long texts go in several calls"
        )


async def test_a_guard_that_fails_is_a_refusal(migrated_dsn: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"guard_model": "guard", "guard_recipe": "guard", "guard_seconds": 0.3}
    async with studio_over(migrated_dsn, tmp_path, **given) as studio:
        await studio.proving_worker()
        away = await said(studio, "a quiet lake")
        assert (away.status_code, away.json()["error"]["code"]) == (422, "check_failed")
        model = GuardModel()
        await hear(studio, model)
        assert (await said(studio, "a quiet lake")).status_code == 200
        model.held.clear()
        answer = await said(studio, "a quiet lake")
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "check_failed"), "it is slow"
        run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
        assert (run["decision"], run["category"]) == ("refuse", "check_failed")
        model.held.set()
        assert (await said(studio, "a quiet lake")).status_code == 200


FINE = Decision("allow", 1, None, "policy@1")
CANNOT: dict[str, dict[str, Any]] = {
    "a refusal": {"status_code": 400},
    "a failure": {"status_code": 500},
    "a full engine": {"status_code": 429, "headers": {"retry-after": "9"}},
    "no JSON": {"content": b"<html>"},
    "nothing useful": {"json": {"nothing": "useful"}},
    "fewer results than texts": {"json": {"results": []}},
    "a flag that is none": {"json": {"results": [{"flagged": "no"}]}},
}


async def opinion(text: str, seconds: float = 60.0) -> Decision:
    models = [{"id": "guard", "abilities": ["moderations"]}]
    async with mocked_engines(pool_of(("guard-1", "chat", URL), models=models)) as engines:
        judge = Guard(engines, cast(Registry, None), GuardSettings(model="guard", recipe="", seconds=seconds))
        return await judge.opinion(FINE, [text], "default", "req-1")


async def test_what_a_guard_is_asked(httpx2_mock: respx.Router) -> None:
    fine = {"results": [{"flagged": False, "categories": {}}]}
    route = httpx2_mock.post(f"{URL}{MODERATIONS}").respond(json=fine)
    assert await opinion("a quiet lake") == replace(FINE, policy="policy@1+guard:guard")
    assert json.loads(route.calls.last.request.content) == {"model": "guard", "input": ["a quiet lake"]}


@pytest.mark.parametrize("name", CANNOT)
async def test_an_answer_that_is_no_opinion_refuses(httpx2_mock: respx.Router, name: str) -> None:
    httpx2_mock.post(f"{URL}{MODERATIONS}").respond(**CANNOT[name])
    found = await opinion("a quiet lake")
    assert (found.action, found.category) == ("refuse", CHECK_FAILED)


@pytest.mark.parametrize("failure", [httpx2.ConnectError("away"), httpx2.ReadTimeout("late")], ids=repr)
async def test_a_guard_that_is_not_reached_refuses(httpx2_mock: respx.Router, failure: Exception) -> None:
    httpx2_mock.post(f"{URL}{MODERATIONS}").mock(side_effect=failure)
    assert (await opinion("a quiet lake")).category == CHECK_FAILED


def test_a_guards_address_is_a_worker_that_takes_no_alias() -> None:
    settings = OrchestratorSettings.load(guard_url="http://guard:1/v1", guard_api_key="k", llm_url=None)
    (worker,) = workers_of(settings)
    announcement, rewrites = announcement_of(worker, ["llama-guard", "other"], worker.abilities)
    assert (worker.key, rewrites) == ("k", {})
    assert [m.abilities for m in announcement.models] == [("moderations", "chat", "tokenize")] * 2
    assert all(not m.aliases for m in announcement.models)

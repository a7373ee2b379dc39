"""POST /enhance and its kin over HTTP: the ladder, the cache, one flight for equal requests, wrong forms."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from core.settings import SettingsError
from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.tokens import Counters
from tests.fakes.studio import Studio, studio_over
from tests.fakes.wait import answers, soon

ASKED = {"prompt": "a red boat on a lake", "job_type": "sdxl_image_fast"}
KINDS = job_types.read()


async def ask(studio: Studio, path: str = "/enhance", **given: Any) -> Any:
    answer = await soon(studio.post(path, {**ASKED, **given}))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_answer_has_the_fields_of_the_contract(studio: Studio) -> None:
    worker = await studio.chat_worker()
    told = await ask(studio)
    assert {name: told[name] for name in told if name not in ("generation_time", "quality_score")} == {
        "success": True,
        "original_prompt": "a red boat on a lake",
        "enhanced_prompt": "a red boat on a lake",
        "enhancement_type": "manual",
        "job_type": "sdxl_image_fast",
        "quality": "fast",
        "enhancement_source": "worker_fallback",
        "cache_hit": False,
        "worker_optimizations": {"caching": True, "post_processing": True, "fallback_ready": True},
        "sdxl_optimizations": {
            "has_quality_tags": False,
            "has_lighting": False,
            "has_technical_terms": False,
            "has_resolution": False,
            "token_count": 6,
        },
    }
    assert 0 <= told["quality_score"] <= 1
    assert told["generation_time"] > 0
    (sent,) = await worker.received()
    assert sent["body"]["messages"][-1]["content"].startswith("a red boat")


async def test_every_job_type_answers_in_its_family(studio: Studio) -> None:
    await studio.chat_worker()
    for name, kind in KINDS.items():
        told = await ask(studio, "/enhance/intelligent", job_type=name)
        assert told["enhancement_source"] == "worker_fallback", name
        assert ("sdxl_optimizations" in told, "wan_optimizations" in told) == (
            kind.family == "sdxl",
            kind.family == "wan",
        )
        own = told.get(f"{kind.family}_optimizations", {})
        assert {key.removeprefix("has_") for key in own} - {"token_count"} == set(kind.checks)


async def test_the_callers_system_prompt_comes_first(studio: Studio) -> None:
    worker = await studio.chat_worker()
    told = await ask(studio, system_prompt="Words of the caller.", context="for a card")
    assert told["enhancement_source"] == "edge_function"
    (sent,) = await worker.received()
    assert sent["body"]["messages"] == [
        {"role": "system", "content": "Words of the caller."},
        {"role": "user", "content": "a red boat on a lake\n\nfor a card"},
    ]
    assert sent["body"]["max_tokens"] == KINDS["sdxl_image_fast"].max_tokens


async def test_when_no_engine_answers_the_prompt_comes_back_marked(studio: Studio) -> None:
    for given in ({}, {"system_prompt": "Words."}):
        told = await ask(studio, prompt="  a red\nboat ,", **given)
        assert (told["enhancement_source"], told["enhanced_prompt"]) == ("emergency_fallback", "a red boat")
    worker = await studio.chat_worker()
    await worker.behave(fail_with=500)
    told = await ask(studio, prompt="  a red\nboat ,")
    assert (told["enhancement_source"], told["cache_hit"]) == ("emergency_fallback", False)
    await worker.behave(fail_with=0)
    told = await ask(studio, prompt="  a red\nboat ,")
    assert (told["enhancement_source"], told["cache_hit"]) == ("worker_fallback", False), "no emergency is cached"


async def test_equal_requests_are_answered_from_the_cache(studio: Studio) -> None:
    worker = await studio.chat_worker()
    first, second = await ask(studio), await ask(studio)
    assert (first["cache_hit"], second["cache_hit"]) == (False, True)
    assert (second["enhanced_prompt"], second["enhancement_source"]) == (
        first["enhanced_prompt"],
        first["enhancement_source"],
    )
    assert len(await worker.received()) == 1
    others: list[dict[str, Any]] = [
        {"quality": "high"},
        {"job_type": "sdxl_image_high"},
        {"prompt": "a blue boat on a lake"},
        {"context": "for a card"},
        {"system_prompt": "Words."},
        {"system_prompt": "Other words."},
    ]
    for given in others:
        assert (await ask(studio, **given))["cache_hit"] is False, given
    info = await studio.get("/enhancement/info")
    assert info.json()["cache_size"] == 1 + len(others)
    cleared = await studio.post("/enhancement/cache/clear")
    assert cleared.json() == {"success": True, "cache_cleared": 7, "cache_size": 0}
    assert (await ask(studio))["cache_hit"] is False


async def test_a_new_release_never_serves_old_text(studio: Studio) -> None:
    await studio.chat_worker()
    assert [(await ask(studio))["cache_hit"] for _ in range(2)] == [False, True]
    schema = {
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
        "properties": {"prompt": {"type": "string", "minLength": 1, "maxLength": 4000}},
    }
    messages = [{"role": "user", "body": "Newer: {{ prompt }}"}]
    new = {"name": "sdxl_image_fast", "model": "qwen_instruct", "messages": messages, "variables": schema}
    version = (await studio.post("/v1/prompts", new)).json()["version"]
    path, authorization = "/v1/prompts/sdxl_image_fast/labels/production", {"authorization": f"Bearer {studio.key}"}
    body = {"version": version, "confirm": True}
    assert (await studio.http.put(path, json=body, headers=authorization)).status_code == 200

    async def newer() -> bool:
        return str((await ask(studio))["enhanced_prompt"]).startswith("Newer")

    await answers(newer)


async def test_equal_requests_at_the_same_time_are_one(studio: Studio) -> None:
    worker = await studio.chat_worker()
    await worker.behave(first_token_seconds=0.2)
    found = await soon(asyncio.gather(*(ask(studio) for _ in range(12))))
    assert {told["enhanced_prompt"] for told in found} == {"a red boat on a lake"}
    assert len(await worker.received()) == 1


async def test_the_cache_is_bounded_and_shared(migrated_dsn: str, tmp_path: Path) -> None:
    """At more than a hundred the oldest twenty go; another orchestrator sees what one has made."""
    async with (
        studio_over(migrated_dsn, tmp_path) as one,
        studio_over(migrated_dsn, tmp_path) as two,
    ):
        await one.chat_worker(capacity=64)
        await ask(one, prompt="number 0")
        for first in range(1, 101, 20):
            await asyncio.gather(*(ask(one, prompt=f"number {number}") for number in range(first, first + 20)))
        assert (await one.get("/enhancement/info")).json()["cache_size"] == 81
        assert (await ask(two, prompt="number 100"))["cache_hit"] is True
        assert (await ask(one, prompt="number 0"))["cache_hit"] is False


async def test_the_plain_form(studio: Studio) -> None:
    worker = await studio.chat_worker()
    for _ in range(2):
        told = await ask(studio, "/enhance/legacy", prompt="word " * 300)
        assert set(told) == {
            *("success", "original_prompt", "enhanced_prompt", "generation_time", "enhancement_type", "job_type"),
            *("quality", "enhancement_source"),
        }
        assert len(told["enhanced_prompt"].split()) > 75, "nothing is compressed"
    assert len(await worker.received()) == 2, "nothing is cached"


async def test_a_long_answer_is_fitted(studio: Studio) -> None:
    await studio.chat_worker()
    told = await ask(studio, prompt="masterpiece, " + ", ".join(f"a boat number {n} on the lake" for n in range(40)))
    assert told["sdxl_optimizations"]["token_count"] <= 75
    assert told["enhanced_prompt"].startswith("masterpiece, a boat number 0")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "a prompt of another type": ({"prompt": 3}, "prompt"),
    "a long prompt": ({"prompt": "x" * 4001}, "prompt"),
    "a job type nobody knows": ({"job_type": "opera"}, "job_type"),
    "a prompt of separators": ({"prompt": " ,;\n"}, "prompt"),
    "what cannot be kept": ({"prompt": "a\x00"}, "prompt"),
    "a context that cannot be kept": ({"context": "a\x00"}, "context"),
    "another quality": ({"quality": "best"}, "quality"),
    "an unknown field": ({"surprise": 1}, "surprise"),
}


async def test_a_wrong_form_is_a_422_that_names_the_field_and_gives_the_prompt_back(studio: Studio) -> None:
    worker = await studio.chat_worker()
    for path in ("/enhance", "/enhance/intelligent", "/enhance/legacy"):
        for name, (given, param) in WRONG.items():
            answer = await studio.post(path, {**ASKED, **given})
            told = answer.json()
            assert (answer.status_code, told["success"], told["error"]["param"]) == (422, False, param), (name, told)
            prompt = given.get("prompt", ASKED["prompt"])
            assert told.get("enhanced_prompt") == (prompt if isinstance(prompt, str) else None), name
    assert await worker.received() == []
    broken = await studio.http.post("/enhance", content=b"{", headers={"authorization": f"Bearer {studio.key}"})
    assert (broken.status_code, broken.json()["success"]) == (400, False)


async def test_policy_decides_here_too(studio: Studio) -> None:
    """Refused before any engine, with the legacy fields and the headers of every refusal; no ladder after it."""
    worker = await studio.chat_worker()
    policy = {"hard": [{"category": "test/hard", "terms": ["forbiddenword"]}], "soft": [], "constraints": ""}
    made = await studio.post("/v1/policies", {"document": policy})
    version = made.json()["version"]
    assert (
        await studio.http.put(
            "/v1/policies/in-force", json={"version": version}, headers={"authorization": f"Bearer {studio.key}"}
        )
    ).status_code in (200, 404)
    answer = await studio.post("/enhance", {**ASKED, "prompt": "a forbiddenword"})
    if answer.status_code == 200:
        pytest.fail("the policy is not in force")
    told = answer.json()
    assert (answer.status_code, told["error"]["type"], told["success"]) == (422, "content_policy", False)
    assert told["enhanced_prompt"] == "a forbiddenword"
    assert answer.headers["x-policy"]
    assert await worker.received() == []


async def test_the_pure_form_has_the_same_path(studio: Studio) -> None:
    worker = await studio.chat_worker()
    answer = await studio.post("/enhance", {"messages": [{"role": "user", "content": "one two"}]})
    assert (answer.status_code, answer.json()["response"]) == (200, "one two")
    assert (await worker.received())[0]["body"]["max_tokens"] == 200


async def test_what_it_says_of_itself(studio: Studio) -> None:
    info = (await studio.get("/enhancement/info")).json()
    assert info["supported_job_types"] == list(KINDS)
    assert (info["model_status"], info["cache_size"]) == ("unavailable", 0)
    await studio.chat_worker()
    assert (await studio.get("/enhancement/info")).json()["model_status"] == "ready"


async def test_who_may_not(studio: Studio) -> None:
    assert (await studio.post("/enhance", ASKED, key="wrong")).status_code == 401


async def test_equal_requests_at_two_orchestrators_are_one(migrated_dsn: str, tmp_path: Path) -> None:
    async with studio_over(migrated_dsn, tmp_path) as one, studio_over(migrated_dsn, tmp_path) as two:
        workers = [await one.chat_worker(), await two.chat_worker()]
        for worker in workers:
            await worker.behave(first_token_seconds=0.3)
        found = await soon(asyncio.gather(*(ask(studio) for studio in (one, two) * 4)))
        assert {told["enhanced_prompt"] for told in found} == {"a red boat on a lake"}
        assert sum([len(await worker.received()) for worker in workers]) == 1


async def test_the_tokenizer_of_wans_text_encoder(migrated_dsn: str, tmp_path: Path) -> None:
    """One that counts a token for each word here: 175 words are left, where the estimate leaves fewer."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    prompt = ", ".join(f"wandering lighthouse{number}" for number in range(150))
    found = []
    for tokens in (file, None):
        async with studio_over(migrated_dsn, tmp_path, wan_tokenizer=tokens) as studio:
            told = await ask(studio, prompt=prompt, job_type="video_fast")
            found.append((told["wan_optimizations"]["token_count"], len(told["enhanced_prompt"].split())))
    assert found[0] in ((174, 174), (175, 175))
    assert found[1][0] <= 175
    assert found[1][1] < 100
    for wrong in (tmp_path / "none.json", tmp_path / "bad.json"):
        (tmp_path / "bad.json").write_text("{}")
        with pytest.raises(SettingsError, match="WAN_TOKENIZER"):
            Counters(wrong)


async def test_the_operators_own_job_types(migrated_dsn: str, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[poster]\nrecipe = "sdxl_image_fast"\nfamily = "sdxl"\ntarget = 5\nmax_tokens = 20\n')
    async with studio_over(migrated_dsn, tmp_path, job_types=own) as studio:
        await studio.chat_worker()
        told = await ask(studio, job_type="poster")
        assert (told["job_type"], told["sdxl_optimizations"]) == ("poster", {"token_count": 5})
        assert (await studio.post("/enhance", ASKED)).status_code == 422
    own.write_text('[poster]\nrecipe = "sdxl_image_fast"\n')
    with pytest.raises(SettingsError, match="JOB_TYPES"):
        job_types.read(own)

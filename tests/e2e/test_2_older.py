"""The older endpoints against the real engine, by HTTP alone: each example of the contract, its fields and types."""

import hashlib
from typing import Any

import aiohttp
import pytest
import rfc8785

from tests.e2e.studio import Studio

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
PURE = {
    "success": bool,
    "response": str,
    "generation_time": float,
    "tokens_generated": int,
    "model": str,
    "finish_reason": str,
    "messages_sha256": str,
}


def worker_url(studio: Studio) -> str:
    return f"http://127.0.0.1:{studio.port['CHAT_PORT']}"


def orch_url(studio: Studio) -> str:
    return studio.base_url.removesuffix("/v1")


async def call(studio: Studio, method: str, url: str, body: Any = None, *, worker: bool = False) -> tuple[int, Any]:
    key = (studio.data / "keys" / "worker_key").read_text().strip() if worker else studio.key
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.request(method, url, json=body) as response:
        return response.status, await response.json(content_type=None)


def typed(told: dict[str, Any], fields: dict[str, Any]) -> None:
    assert set(fields) <= set(told), sorted(set(fields) - set(told))
    for name, kind in fields.items():
        assert isinstance(told[name], kind), (name, told[name])


@pytest.mark.parametrize("path", ["/chat", "/enhance", "/generate"])
@pytest.mark.parametrize("at", ["worker", "orchestrator"])
async def test_the_pure_form(studio: Studio, path: str, at: str) -> None:
    root = worker_url(studio) if at == "worker" else orch_url(studio)
    body = {"messages": QUESTION, "max_tokens": 20, "temperature": 0, "sfw_mode": True}
    status, told = await call(studio, "POST", root + path, body, worker=at == "worker")
    assert status == 200, told
    typed(told, PURE)
    assert (told["response"], told["tokens_generated"]) == ("The capital of France is Paris.", 8)
    assert told["messages_sha256"] == hashlib.sha256(rfc8785.dumps(QUESTION)).hexdigest()
    wrong, told = await call(studio, "POST", root + path, {"messages": QUESTION, "top_p": 2}, worker=at == "worker")
    assert (wrong, told["success"], told["error"]["param"]) == (422, False, "top_p")


async def test_the_base_model_completes(studio: Studio) -> None:
    body = {
        "model": "qwen_base",
        "messages": [{"role": "user", "content": "The capital of "}, {"role": "user", "content": "France is"}],
        "max_tokens": 3,
        "temperature": 0,
    }
    status, told = await call(studio, "POST", f"{worker_url(studio)}/generate", body, worker=True)
    assert status == 200
    assert "Paris" in told["response"]


async def test_what_the_worker_says_of_itself(studio: Studio) -> None:
    async def get(path: str) -> dict[str, Any]:
        status, told = await call(studio, "GET", worker_url(studio) + path, worker=True)
        assert status == 200
        assert isinstance(told, dict)
        return told

    typed(await get("/health"), {"status": str, "model_loaded": bool, "uptime": float, "stats": dict})
    typed(await get("/worker/info"), {"worker_type": str, "model": str, "capabilities": dict, "endpoints": dict})
    typed(await get("/debug/model"), {"active_model_type": str, "paths": dict, "devices": dict, "stats": dict})
    info = await get("/model/info")
    assert (info["model_loaded"], info["device_type"], info["cuda_available"]) == (True, "cpu", False)
    assert (info["model_parameters"], info["model_size_gb"]) == (134_515_008, 0.2506), info
    assert info["torch_version"].startswith("2.13")
    memory = await get("/memory/status")
    assert memory["instruct_loaded"] is memory["base_loaded"] is True
    assert 0.8 < memory["allocated_vram"] < memory["total_vram"], "the engine's three processes, with weights and cache"


async def test_a_conversation(studio: Studio) -> None:
    fields = {
        **{"success": bool, "response": str, "generation_time": float, "conversation_id": str, "context_type": str},
        **{"message_id": str, "system_prompt_used": str, "unrestricted_mode": bool},
    }
    root = orch_url(studio)
    status, first = await call(studio, "POST", f"{root}/chat", {"message": "My name is Ada. Say hello."})
    assert status == 200, first
    typed(first, fields)
    body = {"message": "Hello again.", "conversation_id": first["conversation_id"], "system_prompt": "Answer shortly."}
    status, second = await call(studio, "POST", f"{root}/chat/unrestricted", body)
    assert (status, second["context_type"], second["unrestricted_mode"]) == (200, "continued", False), second
    assert (second["system_prompt_used"], first["system_prompt_used"].split("@")[0]) == ("caller", "chat_conversation")


JOBS = {"sdxl_image_fast": 75, "chat_enhance": None}  # bench/enhance.py asks for all


@pytest.mark.parametrize(("job_type", "target"), JOBS.items())
async def test_an_enhancement(studio: Studio, job_type: str, target: int | None) -> None:
    fields = {
        **{"success": bool, "original_prompt": str, "enhanced_prompt": str, "generation_time": float},
        **{"enhancement_type": str, "job_type": str, "quality": str, "enhancement_source": str, "cache_hit": bool},
        **{"worker_optimizations": dict, "quality_score": float},
    }
    body = {"prompt": "a lighthouse by the sea", "job_type": job_type}
    url = f"{orch_url(studio)}/enhance"
    status, told = await call(studio, "POST", url, body)
    assert status == 200, told
    typed(told, fields)
    assert told["enhancement_source"] == "worker_fallback"
    if target is not None:
        own = told["sdxl_optimizations" if job_type.startswith("sdxl") else "wan_optimizations"]
        assert own["token_count"] <= target
    status, again = await call(studio, "POST", url, body)
    assert (again["cache_hit"], again["enhanced_prompt"]) == (True, told["enhanced_prompt"])


async def test_a_wrong_enhancement(studio: Studio) -> None:
    root = orch_url(studio)
    for path in ("/enhance", "/enhance/intelligent", "/enhance/legacy"):
        status, told = await call(studio, "POST", root + path, {"prompt": "a cat", "job_type": "opera"})
        assert (status, told["success"], told["enhanced_prompt"]) == (422, False, "a cat")
        assert "sdxl_image_fast" in told["error"]["message"], "the message names those there are"
    status, info = await call(studio, "GET", f"{root}/enhancement/info")
    assert (status, info["model_status"]) == (200, "ready")
    status, cleared = await call(studio, "POST", f"{root}/enhancement/cache/clear")
    assert (cleared["success"], cleared["cache_size"]) == (True, 0)

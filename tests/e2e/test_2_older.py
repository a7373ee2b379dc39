"""The older endpoints against the real engine, by HTTP alone: each example of the contract, its fields and types."""

import asyncio
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

STATS = ("requests_served", "model_loads", "sfw_requests", "base_model_uses", "instruct_model_uses")


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

    health = await get("/health")
    typed(health, {"status": str, "model_loaded": bool, "uptime": float, "stats": dict})
    assert (health["worker_type"], health["no_hardcoded_prompts"]) == ("pure_inference_engine", True)
    told = await get("/worker/info")
    typed(told, {"worker_type": str, "model": str, "capabilities": dict, "models_loaded": dict, "endpoints": dict})
    assert told["models_loaded"] == {"instruct_loaded": True, "base_loaded": True, "active_model_type": "instruct"}
    typed(told["model_paths"], {"instruct": str, "base": str})
    assert told["capabilities"] == {
        **{"chat": True, "enhancement": True, "generation": True},
        **{"hardcoded_prompts": False, "prompt_modification": False, "pure_inference": True},
    }
    debug = await get("/debug/model")
    assert (debug["active_model_type"], debug["instruct_loaded"], debug["base_loaded"]) == ("instruct", True, True)
    assert debug["devices"] == {"instruct": "cpu", "base": "cpu"}
    for path in debug["paths"].values():
        assert path.endswith("smollm2-135m-instruct")
    typed(debug["stats"], dict.fromkeys(STATS, int))
    assert debug["stats"] == (await get("/health"))["stats"]
    info = await get("/model/info")
    assert (info["model_loaded"], info["device_type"], info["cuda_available"]) == (True, "cpu", False)
    assert (info["model_parameters"], info["model_size_gb"]) == (134_515_008, 0.2506), info
    assert info["torch_version"].startswith("2.13")
    assert info["model_path"] == debug["paths"]["instruct"]
    assert (info["model_device"], info["is_eval_mode"]) == ("cpu", True)
    assert info["cuda_version"] is info["gpu_name"] is None
    memory = await get("/memory/status")
    assert memory["instruct_loaded"] is memory["base_loaded"] is True
    assert 0.8 < memory["allocated_vram"] < memory["total_vram"], "the engine's three processes, with weights and cache"


async def test_a_load_of_what_is_loaded_and_wrong_forms_of_it(studio: Studio) -> None:
    """Real loads and unloads: tests/e2e/test_5_crash.py."""
    fields = {
        **{"total_vram": float, "allocated_vram": float, "available_vram": float, "model_loaded": bool},
        **{"instruct_loaded": bool, "base_loaded": bool, "instruct_device": str, "model_device": str},
        "device_type": str,
    }
    url = f"{worker_url(studio)}/memory/load"
    loads = (await call(studio, "GET", f"{worker_url(studio)}/health", worker=True))[1]["stats"]["model_loads"]
    right: list[dict[str, Any]] = [
        {"which": "instruct"},
        {"which": "base", "force": False},
        {"which": "all", "force": True},
    ]
    for body in right:
        status, told = await call(studio, "POST", url, body, worker=True)
        assert (status, told["success"], told["instruct_loaded"], told["base_loaded"]) == (200, True, True, True)
        typed(told, fields)
    assert (await call(studio, "GET", f"{worker_url(studio)}/health", worker=True))[1]["stats"]["model_loads"] == loads
    wrong: dict[str, tuple[dict[str, Any], ...]] = {
        "which": ({"which": "both"}, {}),
        "force": ({"which": "all", "force": "maybe"},),
        "most": ({"most": 1},),
    }
    for param, bodies in wrong.items():
        for body in bodies:
            status, told = await call(studio, "POST", url, {"which": "all", **body} if body else body, worker=True)
            assert (status, told["error"]["param"]) == (422, param), told
            assert told["error"]["message"].startswith(f"{param}: ")


async def test_long_prompts_with_seeds_beside_each_other(studio: Studio) -> None:
    """More at once than the engine takes in a step."""
    engine = studio.engine().pid
    body = {
        "model": "qwen_instruct",
        "messages": [{"role": "user", "content": "one two three four five six seven eight nine ten " * 140}],
        **{"max_tokens": 4, "temperature": 1, "seed": 7},
    }
    url = f"{studio.base_url}/chat/completions"
    found = await asyncio.gather(*(call(studio, "POST", url, body) for _ in range(3)))
    assert [status for status, _ in found] == [200] * 3, found
    assert found[0][1]["usage"]["prompt_tokens"] > 4096 / 3
    assert studio.engine().pid == engine


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
    status, wrong = await call(studio, "POST", f"{root}/chat", {"message": "x", "conversation_id": "a b"})
    assert (status, wrong["success"], wrong["error"]["param"]) == (422, False, "conversation_id")
    for wanted in (204, 404):
        assert (await call(studio, "DELETE", f"{root}/chat/{first['conversation_id']}"))[0] == wanted


JOBS = {
    "sdxl_image_fast": ("quality_tags", "lighting", "technical_terms", "resolution"),
    "video_fast": ("smooth_motion", "cinematography", "temporal_consistency"),
    "chat_enhance": (),
}
TARGETS = {"sdxl_image_fast": 75, "video_fast": 175}


async def test_enhancements(studio: Studio) -> None:
    """Beside each other, as the engine takes them."""
    await asyncio.gather(*(an_enhancement(studio, job_type) for job_type in JOBS))


async def an_enhancement(studio: Studio, job_type: str) -> None:
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
    assert (told["enhancement_source"], 0 <= told["quality_score"] <= 1) == ("worker_fallback", True)
    typed(told["worker_optimizations"], dict.fromkeys(("caching", "post_processing", "fallback_ready"), bool))
    if job_type in TARGETS:
        own = told["sdxl_optimizations" if job_type.startswith("sdxl") else "wan_optimizations"]
        typed(own, {"token_count": int, **{f"has_{name}": bool for name in JOBS[job_type]}})
        assert own["token_count"] <= TARGETS[job_type]
    status, again = await call(studio, "POST", f"{url}/intelligent", body)
    assert (again["cache_hit"], again["enhanced_prompt"]) == (True, told["enhanced_prompt"])


async def test_the_plain_enhancement_and_the_callers_own_prompt(studio: Studio) -> None:
    plain = {
        **{"success": bool, "original_prompt": str, "enhanced_prompt": str, "generation_time": float},
        **{"enhancement_type": str, "job_type": str, "quality": str, "enhancement_source": str},
    }
    body = {"prompt": "a small red boat", "job_type": "chat_enhance", "system_prompt": "Say it in other words."}
    status, told = await call(studio, "POST", f"{orch_url(studio)}/enhance/legacy", body)
    assert (status, told["enhancement_source"], set(told)) == (200, "edge_function", set(plain)), told
    typed(told, plain)


async def test_what_enhancement_says_of_itself(studio: Studio) -> None:
    status, info = await call(studio, "GET", f"{orch_url(studio)}/enhancement/info")
    assert (status, info["model_status"]) == (200, "ready")
    typed(info, {"enhancement_system": str, "supported_job_types": list, "cache_size": int})
    assert {"sdxl_image_fast", "wan_7b_enhanced", "chat_unrestricted"} <= set(info["supported_job_types"])
    status, cleared = await call(studio, "POST", f"{orch_url(studio)}/enhancement/cache/clear")
    assert (status, cleared) == (200, {"success": True, "cache_cleared": info["cache_size"], "cache_size": 0})


async def test_a_wrong_enhancement(studio: Studio) -> None:
    root = orch_url(studio)
    for path in ("/enhance", "/enhance/intelligent", "/enhance/legacy"):
        status, told = await call(studio, "POST", root + path, {"prompt": "a cat", "job_type": "opera"})
        assert (status, told["success"], told["enhanced_prompt"]) == (422, False, "a cat")
        assert "sdxl_image_fast" in told["error"]["message"], "the message names those there are"

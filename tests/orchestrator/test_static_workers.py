"""Workers that nobody registers: found by their addresses, under the names that callers use."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from orchestrator.settings import OrchestratorSettings
from orchestrator.workers.static import IMAGE_ABILITIES, StaticWorker, announcement_of, workers_of
from tests.fakes import fake_engine
from tests.fakes.serving import serving
from tests.fakes.studio import WORKER_KEY, ChatWorker, Studio, studio_over
from tests.fakes.upstream import recording_upstream, saying
from tests.fakes.wait import answers, eventually, soon
from tests.fakes.workers import ImageWorker

pytestmark = pytest.mark.slow

IMAGE = IMAGE_ABILITIES
A, B = "http://a:1", "http://b:2/v1"

LISTED: dict[str, tuple[dict[str, Any], list[StaticWorker]]] = {
    "none": ({}, []),
    "image workers": (
        {"image_worker_urls": (A, B)},
        [StaticWorker(A, "image", "key", (), IMAGE), StaticWorker(B, "image", "key", (), IMAGE)],
    ),
    "a pool": ({"interface_shorts_worker_urls": (A,)}, [StaticWorker(A, "image", "key", ("shorts",), IMAGE)]),
    "one worker in several pools": (
        {
            "image_worker_urls": (A,),
            "interface_profile_worker_urls": (A + "/",),
            "interface_chat1to1_worker_urls": (A,),
            "interface_scenes_worker_urls": (B,),
        },
        [
            StaticWorker(A, "image", "key", ("profile", "chat1to1"), IMAGE),
            StaticWorker(B, "image", "key", ("scenes",), IMAGE),
        ],
    ),
    "a selfie worker": ({"interface_selfie_feature_worker_urls": (A,)}, [StaticWorker(A, "selfie", "key")]),
    "a foreign server never gets the worker key": (
        {"llm_url": B},
        [StaticWorker(B, "chat", None, aliases=(("qwen_instruct", None), ("qwen_base", None)))],
    ),
    "a foreign server with its own key and model": (
        {"llm_url": B, "llm_api_key": "own", "llm_model": "big"},
        [StaticWorker(B, "chat", "own", aliases=(("qwen_instruct", "big"), ("qwen_base", "big")))],
    ),
    "a foreign server whose abilities are declared": (
        {"llm_url": B, "llm_abilities": ("chat",)},
        [StaticWorker(B, "chat", None, (), ("chat",), (("qwen_instruct", None), ("qwen_base", None)))],
    ),
}


@pytest.mark.parametrize(("given", "wanted"), LISTED.values(), ids=LISTED.keys())
def test_what_the_settings_name(given: dict[str, Any], wanted: list[StaticWorker]) -> None:
    assert workers_of(OrchestratorSettings.load(**{"llm_url": None, **given}), "key") == wanted


async def serves(studio: Studio, name: str) -> None:
    async def there() -> bool:
        return (await studio.get(f"/v1/models/{name}")).status_code == 200

    await answers(there, name)


async def test_any_openai_server_can_be_the_chat_worker(migrated_dsn: str, tmp_path: Path) -> None:
    """It is sent its own name for the model, and its own key."""
    async with serving(fake_engine.create_app(["llama", "other"], "its-key")) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with studio_over(migrated_dsn, tmp_path, llm_url=url, llm_api_key="its-key") as studio:
            await serves(studio, "qwen_instruct")
            names = [model["id"] for model in (await studio.get("/v1/models")).json()["data"]]
            assert names == ["llama", "other", "qwen_base", "qwen_instruct"]
            client = studio.sdk()
            for name in ("qwen_instruct", "llama", "other"):
                answer = await client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "hello"}]
                )
                assert answer.choices[0].message.content == "hello"
            recipe = {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": "hello"}]}
            assert (await soon(studio.post("/v1/chat/completions", recipe))).status_code == 200
        worker = ChatWorker(f"http://127.0.0.1:{port}")
        sent = [request["body"]["model"] for request in await worker.received() if request["body"]]
        await worker.http.aclose()
        assert sent == ["llama", "llama", "other", "llama"]


MODELS: dict[str, tuple[list[str], str | None, list[str]]] = {
    "none": ([], None, []),
    "its first is meant": (["a", "b"], None, ["a", "b", "qwen_base", "qwen_instruct"]),
    "names it has are its own": (["qwen_instruct"], None, ["qwen_base", "qwen_instruct"]),
    "a model it does not list": (["a"], "unlisted", ["a", "qwen_base", "qwen_instruct", "unlisted"]),
    "names that no worker could announce": (["a b", "ok"], None, ["ok", "qwen_base", "qwen_instruct"]),
    "more than an announcement holds": (
        [f"m{number:03}" for number in range(300)],
        "m299",
        sorted(["m299", *(f"m{number:03}" for number in range(63)), "qwen_base", "qwen_instruct"]),
    ),
}


@pytest.mark.parametrize(("there", "model", "wanted"), MODELS.values(), ids=MODELS.keys())
def test_the_models_of_a_foreign_server(there: list[str], model: str | None, wanted: list[str]) -> None:
    aliases = (("qwen_instruct", model), ("qwen_base", model))
    announcement, rewrites = announcement_of(StaticWorker(A, "chat", None, aliases=aliases), there, ("chat",))
    assert sorted(name for served in announcement.models for name in (served.id, *served.aliases)) == wanted
    assert set(rewrites.values()) <= {served.id for served in announcement.models[:1]}
    assert {name for served in announcement.models for name in served.aliases} == set(rewrites)


@pytest.mark.parametrize("root", ["http://a:1", "http://[fd00::7]:1/x~y", "https://a/" + "long/" * 60 + "end"])
def test_any_address_gives_an_id(root: str) -> None:
    announcement, _ = announcement_of(StaticWorker(root + "/v1/", "image", None), ["m"], ("images",))
    assert announcement.id.startswith("static:")
    assert str(announcement.url) == root + ("/" if root.count("/") == 2 else "")


async def test_an_image_worker_of_the_list_is_called_with_the_worker_key(migrated_dsn: str, tmp_path: Path) -> None:
    worker = ImageWorker()
    async with (
        serving(worker.app()) as port,
        studio_over(migrated_dsn, tmp_path, image_worker_urls=(f"http://127.0.0.1:{port}",)) as studio,
    ):
        await serves(studio, worker.model)
        await studio.sdk().images.generate(model=worker.model, prompt="an apple")
    assert worker.headers[0]["authorization"] == f"Bearer {WORKER_KEY}"


NOT_A_SERVER = [b"<html>", b"[]", b"{}", b'{"data":[{}]}', b'{"data":null}']


async def test_what_is_no_server_is_not_used_and_named_once(
    migrated_dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(recording_upstream()) for _ in NOT_A_SERVER]
        for upstream, body in zip(upstreams, NOT_A_SERVER, strict=True):
            upstream.script = saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        urls = tuple(str(upstream.url) for upstream in upstreams)
        studio = await stack.enter_async_context(studio_over(migrated_dsn, tmp_path, image_worker_urls=urls))
        await eventually(lambda: all(len(upstream.received) > 1 for upstream in upstreams), "a second question")
        assert caplog.text.count("worker does not answer") == len(urls)
        with pytest.raises(openai.InternalServerError) as caught:
            await studio.sdk().images.generate(prompt="an apple")
        assert (caught.value.status_code, caught.value.code) == (503, "no_worker")

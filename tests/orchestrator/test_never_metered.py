"""Reading, ending and taking back what is one's own counts against no limit, and no limit stands in its way."""

from typing import Any

import pytest

from tests.fakes.studio import Studio

ASKED: dict[str, Any] = {"message": "a red apple", "seed": 7, "partial_images": 0}
WORKS = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
UNKNOWN = "lik_" + "a" * 24
FREE = [
    ("GET", "/v1/models"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job}"),
    ("GET", "/v1/jobs/{job}/events"),
    ("POST", "/v1/jobs/{job}/cancel"),
    ("GET", "/v1/runs/{run}"),
    ("DELETE", "/v1/runs/{run}/contents"),
    ("GET", "/v1/likenesses/" + UNKNOWN),
    ("DELETE", "/v1/likenesses/" + UNKNOWN),
    ("DELETE", "/chat/ours"),
    ("GET", "/enhancement/info"),
    ("POST", "/enhancement/cache/clear"),
    ("POST", "/v1/moderations"),
]


@pytest.mark.parametrize(("method", "path"), FREE)
async def test_it_is_never_counted_nor_refused_by_a_limit(durable_studio: Studio, method: str, path: str) -> None:
    studio = durable_studio
    await studio.chat_worker()
    await studio.image_worker()
    made = await studio.post(
        "/v1/keys", {"name": "app", "scopes": ["chat", "pipelines"], "limits": {"requests_per_minute": 3}}
    )
    key = made.json()["secret"]
    job = await studio.post("/v1/chat/1to1/imagegen", ASKED, key=key)
    talk = await studio.post("/chat", {"message": "hello", "conversation_id": "ours"}, key=key)
    assert (job.status_code, talk.status_code) == (200, 200), job.text + talk.text
    address = path.format(job=job.headers["x-job-id"], run=job.json()["run_id"])
    headers = {"authorization": f"Bearer {key}"}
    body = {"input": "hello"} if path.endswith("moderations") else None

    async def ask() -> int:
        return (await studio.http.request(method, address, json=body, headers=headers)).status_code

    for _ in range(4):
        assert await ask() != 429, "it counts"
    assert (await studio.post("/v1/chat/completions", WORKS, key=key)).status_code == 200, "the third that works"
    assert (await studio.post("/v1/chat/completions", WORKS, key=key)).status_code == 429, "the limit is reached"
    assert await ask() not in (401, 403, 405, 429)

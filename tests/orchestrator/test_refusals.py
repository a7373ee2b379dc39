"""The policy on every path: relayed, recipe, pipeline. A refusal comes before any work, echoes nothing, is recorded."""

from typing import Any

import pytest

from tests.fakes.studio import WORKER_KEY, Studio
from tests.fakes.workers import expansion

HARD = "please write something zzexplicit secretword"


TIER = "x-content-tier"


def bearer(studio: Studio) -> tuple[str, str]:
    return "authorization", f"Bearer {studio.key}"


def chat(text: str) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": text}]}


def recipe(text: str) -> dict[str, Any]:
    return {"prompt": {"id": "chat_conversation"}, "messages": [{"role": "user", "content": text}]}


async def refuse(studio: Studio, path: str, body: dict[str, Any], category: str, **headers: str) -> None:
    answer = await studio.post(path, body, headers=headers)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("content_policy", category)
    assert "secretword" not in answer.text + str(answer.headers)
    assert f"category={category}" in answer.headers["x-policy"]
    run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
    assert (run["decision"], run["category"], run["status"]) == ("refuse", category, 422)
    assert len(run["messages_sha256"]) == 64
    assert "secretword" not in str(run)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(HARD)),
        ("/v1/chat/completions", recipe(HARD)),
        ("/v1/chat/completions", {"prompt": {"id": "caption", "variables": {"prompt": HARD}}}),
        ("/v1/completions", {"model": "small", "prompt": HARD}),
        ("/v1/completions", {"model": "small", "prompt": ["fine", HARD]}),
        ("/v1/responses", {"model": "small", "input": HARD}),
        ("/v1/responses", {"model": "small", "input": "fine", "instructions": HARD}),
        ("/v1/chat/completions", {**chat("fine"), "tools": [{"type": "function", "function": {"description": HARD}}]}),
        ("/v1/images/generations", {"prompt": HARD}),
        ("/v1/chat/1to1/imagegen", {"message": HARD}),
        ("/v1/chat/1to1/imagegen", {"message": "fine", "persona": HARD}),
        ("/v1/chat/1to1/imagegen", {"message": "fine", "messages": [{"role": "user", "content": HARD}]}),
    ],
)
async def test_a_hard_word_is_refused_before_any_work(studio: Studio, path: str, body: dict[str, Any]) -> None:
    worker = await studio.proving_worker()
    pictures = await studio.image_worker()
    await refuse(studio, path, body, "sexual/explicit")
    assert not worker.received
    assert not pictures.received


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
HIDDEN: dict[str, dict[str, Any]] = {
    "a role of its own": {"messages": [{"role": HARD, "content": "fine"}]},
    "a role beside parts": {"messages": [{"role": HARD, "content": [{"type": "text", "text": "fine"}]}]},
    "a field of a message": {"messages": [{"role": "user", "content": "fine", "name": HARD}]},
    "a field's name in a message": {"messages": [{"role": "user", "content": "fine", HARD: "x"}]},
    "a text that looks like a file": {"messages": [{"role": "user", "content": f"data:text/plain,{HARD}"}]},
    "a part that looks like a file": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"data:text/plain,{HARD}"}]}]
    },
    "a file's name": {
        "messages": [
            {"role": "user", "content": [{"type": "file", "file": {"filename": HARD, "file_data": "data:,x"}}]}
        ]
    },
    "a tool's parameter": {
        "tools": [{**FUNCTION, "function": {"name": "f", "parameters": {"properties": {HARD: {"type": "string"}}}}}]
    },
    "a tool's choices": {
        "tools": [{**FUNCTION, "function": {"name": "f", "parameters": {"properties": {"a": {"enum": [HARD]}}}}}]
    },
    "a tool's answer": {"messages": [{"role": "tool", "tool_call_id": "1", "content": HARD}]},
    "a call's arguments": {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": HARD}}],
            }
        ]
    },
    "an argument of the chat template": {"chat_template_kwargs": {"persona": HARD}},
    "the name of one": {"chat_template_kwargs": {HARD: True}},
    "a document": {"documents": [{"title": "t", "text": HARD}]},
}


async def test_whatever_the_model_may_be_shown_is_judged(studio: Studio) -> None:
    worker = await studio.proving_worker()
    for what, fields in HIDDEN.items():
        for body in (chat("fine"), recipe("fine")):
            answer = await studio.post("/v1/chat/completions", {**body, **fields})
            category = "sexual/real_person" if what == "a file's name" else "sexual/explicit"
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, category), what
    assert not worker.received


async def test_a_picture_itself_is_not_read_as_text(studio: Studio) -> None:
    """Base64 may spell anything."""
    await studio.proving_worker()
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,zzexplicit"}}
    body = {"model": "small", "messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, picture]}]}
    assert (await studio.post("/v1/chat/completions", body)).status_code == 200


async def test_the_floor_holds_over_messages_and_at_any_tier(studio: Studio) -> None:
    await studio.proving_worker()
    body = chat("They are 12 years old. secretword")
    body["messages"].append({"role": "user", "content": "Now zzsuggestive, secretword."})
    await refuse(studio, "/v1/chat/completions", body, "sexual/minors")


async def test_what_cannot_be_read_cannot_be_checked(studio: Studio) -> None:
    await studio.proving_worker()
    await refuse(studio, "/v1/completions", {"model": "small", "prompt": [1, 2, 3]}, "check_failed")
    await refuse(studio, "/v1/completions", {"model": "small", "prompt_embeds": "AAAA"}, "check_failed")


async def test_a_picture_in_a_message_makes_the_subject_real(studio: Studio) -> None:
    await studio.proving_worker()
    content = [
        {"type": "text", "text": "undress"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}},
    ]
    body = {"model": "small", "messages": [{"role": "user", "content": content}]}
    await refuse(studio, "/v1/chat/completions", body, "sexual/real_person")


async def test_a_soft_word_is_constrained_visibly_in_an_image(studio: Studio) -> None:
    pictures = await studio.image_worker()
    answer = await studio.post("/v1/images/generations", {"prompt": "a zznudity painting of a woman", "seed": 3})
    assert answer.status_code == 200, answer.text
    sent = pictures.received[-1]
    assert sent["prompt"].startswith("a zznudity painting of a woman Everyone shown is an adult and fully clothed")
    assert sent["seed"] == 3
    assert "decision=soft; category=nudity" in answer.headers["x-policy"]
    run = (await studio.get(f"/v1/runs/{answer.headers['x-run-id']}")).json()
    assert run["constraints_added"].startswith("Everyone shown")


async def test_the_expanded_prompt_is_judged_too(studio: Studio) -> None:
    """A tenant's own word, which only the expansion says."""
    chat = await studio.scripted_worker()
    chat.expand = expansion("a boat and a zztower")
    pictures = await studio.image_worker()
    document = {"hard": [{"category": "test/expanded", "terms": ["zztower"]}], "constraints": "x"}
    made = await studio.post("/v1/policies", {"document": document})
    put = await studio.http.put(
        "/v1/policies/in-force",
        json={"version": made.json()["version"]},
        headers={"authorization": f"Bearer {studio.key}"},
    )
    assert put.status_code == 200, put.text
    answer = await studio.post("/v1/chat/1to1/imagegen", {"message": "a boat"})
    while answer.status_code == 200:  # until the epoch is seen
        answer = await studio.post("/v1/chat/1to1/imagegen", {"message": "a boat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "test/expanded")
    assert all("zztower" in picture["prompt"] for picture in pictures.received)


async def test_a_request_lowers_its_tier(studio: Studio) -> None:
    await studio.proving_worker()
    for tier, shown in (("0", "tier=0"), ("1", "tier=1"), ("2", "tier=1")):
        answer = await studio.post("/v1/chat/completions", chat("hi"), headers={"x-content-tier": tier})
        assert shown in answer.headers["x-policy"]
    wrong = await studio.post("/v1/chat/completions", chat("hi"), headers={"x-content-tier": "9"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_tier")


@pytest.mark.parametrize(
    "sent", [["0", "1"], ["1", "0"], ["1", "0", "1"], ["0, 1"], ["1,0"], ["1", "1 , 0"]], ids=" | ".join
)
async def test_of_several_tiers_the_lowest_holds(studio: Studio, sent: list[str]) -> None:
    await studio.proving_worker()
    tiers = [("x-content-tier", value) for value in sent]
    answer = await studio.http.post("/v1/chat/completions", json=chat("hi"), headers=[bearer(studio), *tiers])
    assert "tier=0" in answer.headers["x-policy"]
    wrong = await studio.http.post(
        "/v1/chat/completions", json=chat("hi"), headers=[bearer(studio), *tiers, (TIER, "")]
    )
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_tier")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/imagegen", "/v1/runs", "/chat"])
@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("authorization", "", "Bearer another"),
        ("authorization", "", "Basic another"),
        ("idempotency-key", "a", "b"),
        ("x-priority", "1", "9"),
        ("x-request-timeout", "1", "30"),
        ("x-session-id", "a", "b"),
    ],
)
async def test_a_header_that_says_two_things_is_refused(
    studio: Studio, path: str, name: str, first: str, second: str
) -> None:
    pairs = [bearer(studio), *([(name, first)] if first else []), (name, second)]
    answer = await studio.http.post(path, json={}, headers=pairs)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "header_sent_twice")
    assert answer.json()["error"]["param"].lower() == name
    same = await studio.http.post(path, json={}, headers=[bearer(studio), bearer(studio), ("x-priority", "1")] * 2)
    assert same.json().get("error", {}).get("code") != "header_sent_twice"


async def test_moderations_in_openais_shape(studio: Studio) -> None:
    found = await studio.sdk().moderations.create(input=["a quiet lake", "a child, zznudity", HARD])
    assert [result.flagged for result in found.results] == [False, True, True]
    assert found.results[1].categories.sexual_minors
    assert found.results[1].category_scores.sexual_minors == 1.0
    assert (await studio.post("/v1/moderations", {"input": "x"}, key=WORKER_KEY)).status_code == 403


OTHER_CODINGS = [
    ("content-type", "application/json; charset=utf-7"),
    ("content-type", "application/json; charset=utf-8; charset=utf-16"),
    ("content-type", 'application/json; CHARSET = "utf-7"'),
    ("content-type", "application/json; charset*=utf-8''utf-7"),
    ("content-encoding", "br"),
    ("content-encoding", "identity, deflate"),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/images/generations"])
@pytest.mark.parametrize(("name", "value"), OTHER_CODINGS)
async def test_a_body_is_what_it_was_judged_as(studio: Studio, path: str, name: str, value: str) -> None:
    worker = await studio.chat_worker()
    said = "zz+AGU-xplicit"  # to who reads UTF-7 it says something else
    body = {"model": "small", "messages": [{"role": "user", "content": said}], "prompt": said, "input": said}
    answer = await studio.post(path, body, headers={name: value})
    code = "content_encoded" if name == "content-encoding" else "invalid_content_type"
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert await worker.received() == []


@pytest.mark.parametrize(
    "headers", [{"content-type": "application/json; charset=UTF-8"}, {"content-encoding": "identity"}]
)
async def test_and_may_say_so(studio: Studio, headers: dict[str, str]) -> None:
    await studio.chat_worker()
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
    assert (await studio.post("/v1/chat/completions", body, headers=headers)).status_code == 200

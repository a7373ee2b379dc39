"""A fake engine: a program that speaks the API of vLLM's OpenAI server, for fast tests and for trying things out.

It is started with the same arguments and answers the same paths, but generates nothing: the answer repeats the last
message word by word. Delays and failures are set by POST /fake, and what it was sent is read from GET /fake.

    python -m tests.fakes.fake_engine --model any --port 9000 --served-model-name small
"""

import argparse
import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from core.http.disconnect import ClientDisconnected, until_disconnect
from tests.fakes import answers

DEFAULT_COMPLETION_TOKENS = 16
FINGERPRINT = "fake-1"
KEPT_REQUESTS = 100
SLEEPS = ("weights", "kv_cache")
RESPONSES_USAGE = {"input": "prompt", "output": "completion", "total": "total"}  # in words of their own
GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


@dataclass
class Behaviour:
    """How the fake answers from now on. Seconds; `fail_with` is a status given instead of an answer."""

    first_token_seconds: float = 0.0
    token_seconds: float = 0.0
    fail_with: int = 0
    break_after_tokens: int = -1
    stall_after_tokens: int = -1
    healthy: bool = True
    die_saying: str = ""


class FakeEngine:
    """What is running, what was sent, how to behave."""

    def __init__(self, names: list[str], key: str | None, ballast: int = 0) -> None:
        self.names = names
        self.asleep: frozenset[str] = frozenset()
        self.weights_lost = False
        self.ballast_bytes = ballast
        self.ballast = _memory(ballast)
        self.key = key
        self.behaviour = Behaviour()
        self.running = 0
        self.aborted = 0
        self.prompt_tokens = self.generated_tokens = 0
        self.received: list[dict[str, Any]] = []
        self.ids = itertools.count(1)

    def sleep(self, level: int) -> None:
        """Asleep it holds no ballast, which stands for a real engine's weights and cache. At level 2 the weights are
        lost: it wakes, and answers nonsense until they are read again."""
        self.asleep, self.weights_lost = frozenset(SLEEPS), level == 2
        self.ballast = _memory(0)

    def wake_up(self, parts: Iterable[str]) -> None:
        self.asleep -= set(parts)
        if not self.asleep:
            self.ballast = _memory(self.ballast_bytes)

    def reload_weights(self) -> bool:
        """Whether there was a place to read them to."""
        if "weights" in self.asleep:
            return False
        self.weights_lost = False
        return True

    async def tokens(self, words: list[str], body: dict[str, Any]) -> AsyncIterator[str]:
        """The answer's words at the set pace. Raises ConnectionError where it is set to break off."""
        self.prompt_tokens += _usage(body, 0)["prompt_tokens"] * _answers(body)
        await asyncio.sleep(self.behaviour.first_token_seconds)
        for number, word in enumerate(words):
            if number == self.behaviour.break_after_tokens:
                raise ConnectionError("set to break off")
            if number == self.behaviour.stall_after_tokens:
                await asyncio.Event().wait()  # until its caller leaves
            self.generated_tokens += _answers(body)
            yield word if number == 0 else " " + word
            await asyncio.sleep(self.behaviour.token_seconds)

    def answer_words(self, body: dict[str, Any]) -> list[str]:
        said = body.get("messages", body.get("input"))
        if isinstance(said, list):
            content = said[-1].get("content") if said else ""
            text = content if isinstance(content, str) else ""
        else:
            text = str(body.get("prompt", said or ""))
        if self.weights_lost:
            return ["\ufffd"]
        names = ("max_completion_tokens", "max_tokens") if "messages" in body else ("max_output_tokens", "max_tokens")
        limit = next(filter(None, (body.get(name) for name in names)), DEFAULT_COMPLETION_TOKENS)
        return (text.replace("\0", " ").split() or ["nothing"])[: int(limit)]

    def envelope(self, body: dict[str, Any], *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion" if "messages" in body else "text_completion") + (".chunk" if chunk else "")
        return answers.envelope(kind, self.names[0], next(self.ids))


def create_app(
    names: list[str],
    key: str | None = None,
    *,
    ballast: int = 0,
    can_sleep: bool = False,
    behaviour: Behaviour | None = None,
) -> Starlette:
    engine = FakeEngine(names, key, ballast)
    engine.behaviour = behaviour or engine.behaviour

    async def health(_: Request) -> Response:
        return Response(status_code=200 if engine.behaviour.healthy else 503)

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in engine.names]})

    async def metrics(_: Request) -> Response:
        tokens = {"prompt": engine.prompt_tokens, "generation": engine.generated_tokens}
        counts = [f"vllm:{name}_tokens_total {count}\n" for name, count in tokens.items()]
        running = f"vllm:num_requests_running {engine.running}\nvllm:num_requests_waiting 0\n"
        return PlainTextResponse(running + "".join(counts))

    async def state(_: Request) -> Response:
        counts = {"running": engine.running, "aborted": engine.aborted, "pid": os.getpid()}
        return JSONResponse({"received": engine.received, **counts})

    async def behave(request: Request) -> Response:
        engine.behaviour = Behaviour(**{**asdict(engine.behaviour), **await request.json()})
        if engine.behaviour.die_saying:
            sys.stderr.write(engine.behaviour.die_saying + "\n")
            sys.stderr.flush()
            os._exit(1)
        return JSONResponse(asdict(engine.behaviour))

    async def sleep(request: Request) -> Response:
        engine.sleep(int(request.query_params.get("level", 1)))
        return Response()

    async def wake_up(request: Request) -> Response:
        engine.wake_up(request.query_params.getlist("tags") or SLEEPS)
        return Response()

    async def collective_rpc(request: Request) -> Response:
        right = (await request.json()) == {"method": "reload_weights"} and engine.reload_weights()
        return Response(status_code=200 if right else 500)

    async def generate(request: Request) -> Response:
        return await _generate(engine, request)

    async def tokenize(request: Request) -> Response:
        try:
            body = msgspec.json.decode(await request.body())
            said = " ".join(f"{message['role']} {message.get('content') or ''}" for message in body.get("messages", ()))
            words = str(body.get("prompt", said)).split()
        except (msgspec.DecodeError, *WRONG_SHAPES) as exc:
            return _error(400, str(exc)[:200])
        return JSONResponse({"tokens": list(range(len(words))), "count": len(words), "max_model_len": 4096})

    async def detokenize(request: Request) -> Response:
        """Here the id of a token is that of a character."""
        ids = (await request.json())["tokens"]
        if not all(isinstance(number, int) and number < sys.maxunicode for number in ids):
            return _error(400, "There is no such token.")
        return JSONResponse({"prompt": "".join(map(chr, ids))})

    asked = {"/health": health, "/v1/models": models, "/metrics": metrics, "/fake": state}
    told = {**dict.fromkeys(GENERATING, generate), "/tokenize": tokenize, "/detokenize": detokenize, "/fake": behave}
    if can_sleep:
        told |= {"/sleep": sleep, "/wake_up": wake_up, "/collective_rpc": collective_rpc}
    routes = [Route(path, answer) for path, answer in asked.items()]
    return Starlette(routes=[*routes, *(Route(path, answer, methods=["POST"]) for path, answer in told.items())])


MOST_ANSWERS = 16_384  # vLLM's own
WRONG_SHAPES = (TypeError, ValueError, AttributeError, LookupError, OverflowError)
"""What comes of a body that is not as it should be; a real engine checks it."""


async def _generate(engine: FakeEngine, request: Request) -> Response:
    if engine.key and request.headers.get("authorization") != f"Bearer {engine.key}":
        return JSONResponse({"error": "Unauthorized"}, 401)
    raw = await request.body()
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as exc:
        return _error(400, str(exc))
    if not isinstance(body, dict):
        return _error(400, "The body is no object.")
    headers = {name: value for name, value in request.headers.items() if name != "authorization"}
    engine.received = [
        *engine.received[1 - KEPT_REQUESTS :],
        {"body": body, "headers": headers, "path": request.url.path},
    ]
    if body.get("model") not in engine.names:
        return _error(404, f"The model `{body.get('model')}` does not exist.")
    if engine.asleep:
        return _error(500, "asleep")
    if engine.behaviour.fail_with:
        return _error(engine.behaviour.fail_with, "set to fail")
    try:
        engine.answer_words(body), _usage(body, 0), _answers(body)
    except WRONG_SHAPES as exc:
        return _error(400, str(exc)[:200])
    if body.get("stream"):
        return StreamingResponse(_stream(engine, body), media_type="text/event-stream")
    return await _whole(engine, body, request)


async def _whole(engine: FakeEngine, body: dict[str, Any], request: Request) -> Response:
    words = engine.answer_words(body)
    engine.running += 1
    try:
        with until_disconnect(request.receive):
            text = "".join([token async for token in engine.tokens(words, body)])
    except ClientDisconnected:
        engine.aborted += 1
        return Response(status_code=499)
    finally:
        engine.running -= 1
    if "input" in body:
        return JSONResponse(_response(engine, body, words, text))
    part = {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    choices = [{"index": at, **part, "finish_reason": "stop", "logprobs": None} for at in range(_answers(body))]
    told = {"system_fingerprint": FINGERPRINT, "usage": _usage(body, len(choices) * len(words)), **_after_usage(body)}
    return JSONResponse({**engine.envelope(body, chunk=False), "choices": choices, **told})


async def _stream(engine: FakeEngine, body: dict[str, Any]) -> AsyncIterator[bytes]:
    words = engine.answer_words(body)
    engine.running += 1
    done = False
    try:
        async for event in _response_events(engine, body, words) if "input" in body else _chunks(engine, body, words):
            yield event
        done = True
    finally:
        engine.running -= 1
        engine.aborted += not done


async def _chunks(engine: FakeEngine, body: dict[str, Any], words: list[str]) -> AsyncIterator[bytes]:
    """As vLLM does: usage after the choices, the fingerprint in the event that ends an answer or, where usage is asked
    for, in the usage's own. Of several answers each word comes of all of them in turn."""
    envelope, chat, several = engine.envelope(body, chunk=True), "messages" in body, range(_answers(body))
    options = body.get("stream_options") or {}
    asked, each = options.get("include_usage"), options.get("include_usage") and options.get("continuous_usage_stats")

    def event(at: int, part: dict[str, Any], finish: str | None, done: int, **last: Any) -> bytes:
        choice = {"index": at, **part, "finish_reason": finish}
        usage = {"usage": _usage(body, done)} if each else {}
        return answers.event({**envelope, "choices": [choice], **usage, **last})

    done, first = 0, _after_usage(body) if chat else {}  # vLLM has an event of its own for it, with the role
    async for token in engine.tokens(words, body):
        done += 1
        for at in several:
            yield event(at, {"delta": {"content": token}} if chat else {"text": token}, None, done, **first)
        first = {}
    own = {} if asked else {"system_fingerprint": FINGERPRINT}
    for at in several:
        yield event(at, {"delta": {}} if chat else {"text": ""}, "stop", done, **own)
    if asked:
        usage = _usage(body, done * len(several))
        yield answers.event({**envelope, "choices": [], "usage": usage, "system_fingerprint": FINGERPRINT})
    yield answers.DONE


def _answers(body: dict[str, Any]) -> int:
    """Raises ValueError for more than vLLM takes."""
    wanted = int(body.get("n") or 1)
    if not 0 < wanted <= MOST_ANSWERS:
        raise ValueError(f"n must be 1 to {MOST_ANSWERS}.")
    return wanted


def _after_usage(body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM writes after the usage."""
    token_ids = {"prompt_token_ids": list(range(2000))} if body.get("return_token_ids") else {}
    return token_ids | ({"prompt_text": '"usage":{"prompt_tokens":1}' * 200} if body.get("return_prompt_text") else {})


async def _response_events(engine: FakeEngine, body: dict[str, Any], words: list[str]) -> AsyncIterator[bytes]:
    """The events of /v1/responses that carry text, and the first and the last."""
    begun = _response(engine, body, [], "")
    sent = ""
    yield _named("response.created", 0, response={**begun, "status": "in_progress"})
    at = {"item_id": begun["output"][0]["id"], "output_index": 0, "content_index": 0}
    async for token in engine.tokens(words, body):
        sent += token
        yield _named("response.output_text.delta", 1, delta=token, logprobs=[], **at)
    whole = {**_response(engine, body, words, sent), "id": begun["id"]}
    yield _named("response.completed", 2, response=whole)


def _named(kind: str, number: int, **data: Any) -> bytes:
    return answers.named(kind, {"sequence_number": number, **data})


def _response(engine: FakeEngine, body: dict[str, Any], words: list[str], text: str) -> dict[str, Any]:
    usage = _usage(body, len(words))
    named = {f"{own}_tokens": usage[f"{ours}_tokens"] for own, ours in RESPONSES_USAGE.items()}
    more = {"tools": body.get("tools") or [], "usage": named, **({"user": body["user"]} if "user" in body else {})}
    return answers.response(engine.names[0], (text,), next(engine.ids), **more)


def _usage(body: dict[str, Any], answered: int) -> dict[str, int]:
    prompt = sum(len(str(m.get("content", "")).split()) for m in body.get("messages", [])) or 1
    return answers.usage(prompt, answered)


def _error(status: int, message: str) -> Response:
    kind = "BadRequestError" if status < 500 else "InternalServerError"
    return answers.error(status, message, kind, status)


def _memory(size: int) -> bytearray:
    """Memory that is really held: each page is written. Raises MemoryError."""
    held = bytearray(size)
    held[::4096] = b"\x01" * len(held[::4096])
    return held


def _limit_memory(more: int) -> None:
    """What is allocated beyond this from now on fails, as on a device that is full."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fakes.fake_engine", description="A fake engine; see the module."
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--fake-ballast-mb", type=int, default=0, help="memory that it holds while it is awake")
    parser.add_argument("--fake-cache-kb", type=float, default=0, help="memory for each token of each sequence")
    parser.add_argument("--fake-token-seconds", type=float, default=0, help="time for each token")
    parser.add_argument("--fake-limit-mb", type=int, default=0, help="more memory than this it cannot have")
    given, _ = parser.parse_known_args()  # a real engine's other arguments mean nothing here
    if given.fake_limit_mb:
        _limit_memory(given.fake_limit_mb << 20)
    cache = int(given.fake_cache_kb * 1024 * given.max_num_seqs * given.max_model_len)
    app = create_app(
        given.served_model_name or [given.model],
        os.environ.get("VLLM_API_KEY"),
        ballast=(given.fake_ballast_mb << 20) + cache,
        can_sleep=given.enable_sleep_mode,
        behaviour=Behaviour(token_seconds=given.fake_token_seconds),
    )
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", timeout_keep_alive=5)


if __name__ == "__main__":
    main()

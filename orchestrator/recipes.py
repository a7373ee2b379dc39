"""A recipe: the caller names a prompt instead of sending one. Resolve → render → judge → call the model → prove."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import msgspec
from openai.types.chat import ChatCompletionMessageParam

from core.canonical import messages_sha256, sha256
from core.errors import InvalidRequest
from orchestrator import answers
from orchestrator.engines import Engines
from orchestrator.oversight import WORKER_HEADER, Caller, Marked, Oversight
from orchestrator.policy_floor import Surface
from orchestrator.requests import StoredPrompt
from orchestrator.runs import Contents, Run
from orchestrator.said import strings
from prompts.registry import PRODUCTION, Registry
from prompts.render import Message, Release

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# Fields of a body that a recipe decides, or that are not the engine's.
OWN_FIELDS = frozenset({"model", "messages", "prompt", "chat_template"})


class RecipeRunner:
    """Answers a request that names a recipe; pipelines use `text` for their single steps."""

    def __init__(self, registry: Registry, engines: Engines, oversight: Oversight) -> None:
        self._registry = registry
        self._engines = engines
        self.oversight = oversight

    async def answer(self, prompt: StoredPrompt, body: bytes, caller: Caller, send: Send) -> None:
        """Answer on raw ASGI, JSON or SSE, with the proof of what made it."""
        sent: dict[str, Any] = msgspec.json.decode(body)
        history = _history(sent.get("messages"))
        run, release = await self._begin(prompt.id, prompt.version, prompt.variables, caller)
        messages = await self._render(run, release, prompt.variables, history, caller, "text")
        request = {**release.sampling, **{k: v for k, v in sent.items() if k not in OWN_FIELDS}}
        ids_wanted = bool(request.get("return_token_ids"))
        run.sampling, run.seed = _sampling(request), request.get("seed")
        marked = Marked(self.oversight, run, send)
        contents = Contents(prompt.variables, history)
        days = await self._days(caller, contents)
        try:
            async with self._engines.engine(release.model, "chat", caller.request_id) as (client, model, worker):
                run.worker, run.model = worker, model
                call = client.chat.completions.with_streaming_response.create(
                    model=model, messages=_typed(messages), extra_body={**request, "return_token_ids": True}
                )
                async with call as response:
                    self.oversight.compare(run, response.headers.get(WORKER_HEADER))
                    contents.output = await answers.pass_on(response.http_response, run, marked, ids_wanted=ids_wanted)
        except BaseException as exc:  # a client that leaves, too: every run is recorded
            marked.settle(exc, contents if days else None, days)
            raise
        marked.settle(None, contents if days else None, days)

    async def text(
        self,
        recipe: str,
        variables: Mapping[str, Any],
        caller: Caller,
        history: Sequence[Message] = (),
        *,
        surface: Surface = "text",
    ) -> tuple[str, Run]:
        """One answer of a recipe, as text, and its run. `surface` says what the text is for."""
        run, release = await self._begin(recipe, PRODUCTION, variables, caller)
        messages = await self._render(run, release, variables, history, caller, surface)
        run.sampling = _sampling(release.sampling)
        contents = Contents(dict(variables), list(history))
        days = await self._days(caller, contents)
        status = 502
        try:
            async with self._engines.engine(release.model, "chat", caller.request_id) as (client, model, worker):
                run.worker, run.model = worker, model
                body = {**release.sampling, "return_token_ids": True}
                raw = await client.chat.completions.with_raw_response.create(
                    model=model, messages=_typed(messages), extra_body=body
                )
                self.oversight.compare(run, raw.headers.get(WORKER_HEADER))
                contents.output = answers.read(raw.http_response.content, run)
                status = 200
        finally:
            self.oversight.settle(run, status, contents if days else None, days)
        return contents.output.strip(), run

    async def replay(self, release: Release, messages: list[Message], run: Run, caller: Caller) -> tuple[str, Run]:
        """Call the engine again with a run's messages, sampling and seed."""
        again = self.oversight.begin(caller)
        again.recipe, again.version, again.release_sha256 = release.recipe, release.version, release.sha256
        again.sampling, again.seed, again.variables_sha256 = run.sampling, run.seed, run.variables_sha256
        again.messages_sha256 = messages_sha256(messages)
        await self.oversight.admit(again, caller, list(strings(messages)), "text", recipe_tier=release.tier)
        async with self._engines.engine(release.model, "chat", caller.request_id) as (client, model, worker):
            again.worker, again.model = worker, model
            body = {**(run.sampling or {}), "return_token_ids": True, "stream": False}
            raw = await client.chat.completions.with_raw_response.create(
                model=model, messages=_typed(messages), extra_body=body
            )
            self.oversight.compare(again, raw.headers.get(WORKER_HEADER))
            output = answers.read(raw.http_response.content, again)
        self.oversight.settle(again, 200)
        return output, again

    async def _begin(
        self, recipe: str, wanted: str, variables: Mapping[str, Any], caller: Caller
    ) -> tuple[Run, Release]:
        run = self.oversight.begin(caller)
        release = await self._registry.resolve(recipe, wanted, tenant=caller.key.tenant, sticky=caller.session)
        run.recipe, run.version, run.label = release.recipe, release.version, wanted
        run.release_sha256 = release.sha256
        release.check(variables)
        run.variables_sha256 = sha256(dict(variables))
        return run, release

    async def _render(
        self,
        run: Run,
        release: Release,
        variables: Mapping[str, Any],
        history: Sequence[Message],
        caller: Caller,
        surface: Surface,
    ) -> list[Message]:
        """The messages, judged: what the caller sent and what the template made of it."""
        messages = release.render(variables, history)
        run.messages_sha256 = messages_sha256(messages)
        sent = [*strings(dict(variables)), *strings(list(history))]
        # First alone: what a template says of its own (that everyone is an adult) must not speak for the caller.
        for texts in (sent, [*sent, *strings(messages)]):
            await self.oversight.admit(
                run, caller, texts, surface, recipe_tier=release.tier, policy_version=release.policy_version
            )
        return messages

    async def _days(self, caller: Caller, contents: Contents) -> int:
        """How long this tenant keeps contents; 0 where it keeps none."""
        standing = await self.oversight.policies.standing(caller.key.tenant)
        return standing.contents_days if standing.store_contents else 0


def _sampling(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in ("stream", "stream_options")}


def _typed(messages: list[Message]) -> Iterable[ChatCompletionMessageParam]:
    """The SDK's name for what the registry renders and the caller sends: passed on as it is."""
    return cast(Iterable[ChatCompletionMessageParam], messages)


def _history(messages: Any) -> list[Message]:
    """The caller's own messages, which follow or go into the recipe's."""
    if messages is None:
        return []
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise InvalidRequest("`messages` must be a list of messages.", param="messages", code="invalid_messages")
    return messages

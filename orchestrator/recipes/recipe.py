"""A recipe: the caller names a prompt instead of sending one. Resolve → render → judge → call the model → prove."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import openai
from starlette.types import Send

from core.http.idempotency import REPEATED
from core.json.canonical import messages_sha256, sha256_of_fields
from core.json.text import decoded
from core.untrusted import storable
from core.usage import estimated
from orchestrator.access.limits import Needs
from orchestrator.engines import chat_api
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.gateway.body import StoredPrompt
from orchestrator.gateway.usage import ASK_REFUSED
from orchestrator.policy import texts
from orchestrator.policy.floor import Subject, Surface
from orchestrator.policy.texts import Texts, no_forged_turn
from orchestrator.recipes.fields import check_recorded, recorded, refuse_showing
from orchestrator.recipes.passing import pass_on, proved, ways_to_ask
from orchestrator.runs.call import WORKER_HEADER, Call
from orchestrator.runs.caller import Caller
from orchestrator.runs.judge import Judge
from orchestrator.runs.record import Contents, Run
from prompts.registry import PRODUCTION, Registry
from prompts.render import Message, Release

NOBODY = Subject()


class RecipeRunner:
    """Answers a request that names a recipe; pipelines use `text` for their single steps."""

    def __init__(self, registry: Registry, engines: Engines, judge: Judge) -> None:
        self._registry = registry
        self._engines = engines
        self.judge = judge

    async def answer(self, prompt: StoredPrompt, body: bytes, call: Call, send: Send) -> None:
        """Answer on raw ASGI, JSON or SSE, with the proof of what made it."""
        sent: dict[str, Any] = decoded(body)
        speech = chat_api.of_route(call.caller.route)
        history = speech.history(sent)
        fields = {name: value for name, value in sent.items() if name not in speech.own}
        check_recorded(fields)
        if "admin" not in call.caller.key.scopes:
            refuse_showing(fields)
        variables = chat_api.variables(prompt.variables)
        release = await self._resolved(call, prompt.id, prompt.version, variables)
        messages = await self._render(call, release, variables, history, texts.of_body(sent), fields=fields)
        own = speech.sampling(release.sampling)
        request = {**own, **fields}
        call.run.sampling, call.run.seed = recorded(request, own), request.get("seed")
        contents = Contents(variables, history, fields=fields)
        await call.keep(contents)
        await self._limit(call, release.model, messages, request)
        contents.output = await self._pass(call, release.model, messages, request, send)

    async def prove(self, model: str, body: bytes, call: Call, send: Send) -> None:
        """Answer a judged request with the caller's own messages, with the hash of its prompt's tokens too."""
        fields: dict[str, Any] = decoded(body)
        messages = fields.pop(chat_api.of_route(call.caller.route).messages, None)
        await self._pass(call, model, messages, fields, send)

    async def _pass(self, call: Call, model: str, messages: Any, request: Mapping[str, Any], send: Send) -> str:
        """Call the engine and pass its answer on, with its proof; its text."""
        caller, run = call.caller, call.run
        speech = chat_api.of_route(caller.route)
        ids_wanted = any(request.get(name) for name in speech.ids)
        ways = ways_to_ask(speech, messages, request)
        meter = ways[0].meter
        error: BaseException | None = None
        try:
            engine = self._engines.engine(model, speech.ability, caller.request_id, **caller.place)
            async with engine as (client, name, worker), contextlib.AsyncExitStack() as stack:
                run.worker, run.model = worker, name
                for way in ways:
                    meter = way.meter
                    try:
                        asked = speech.call(client, name, messages, way.fields)
                        response = await stack.enter_async_context(asked)
                        break
                    except openai.APIStatusError as exc:
                        if way.last or exc.status_code not in ASK_REFUSED:
                            raise
                call.compare(response.headers.get(WORKER_HEADER))
                return await pass_on(response.http_response, run, send, speech.reader, meter, ids_wanted=ids_wanted)
        except BaseException as exc:  # a client that leaves, too: what passed until then is counted
            error = exc
            raise
        finally:
            run.took(meter.count(error=error) if run.worker else None)

    async def has(self, recipe: str, caller: Caller) -> bool:
        """Whether the database has it, for a recipe that may be there and need not."""
        return await self._registry.has(recipe, tenant=caller.key.tenant)

    async def text(
        self,
        recipe: str,
        variables: Mapping[str, Any],
        caller: Caller,
        history: Sequence[Message] = (),
        *,
        surface: Surface = "text",
        subject: Subject = NOBODY,
        also: Sequence[str] = (),
        key: str | None = None,
    ) -> tuple[str, Run]:
        """One answer of a recipe, as text, and its run. `surface` says what the text is for, `subject` who is in it,
        `also` what its caller said besides; the same work again comes with the same `key`."""
        async with self.judge.call(caller) as call:
            release = await self._resolved(call, recipe, PRODUCTION, variables)
            given = _texts(variables, history) + texts.of(list(also))
            messages = await self._render(call, release, variables, history, given, surface=surface, subject=subject)
            call.run.sampling = dict(release.sampling)
            contents = Contents(dict(variables), list(history))
            await call.keep(contents)
            output = await self._whole(call, chat_api.CHAT, release.model, messages, release.sampling, key=key)
            contents.output = storable(output)
        return contents.output.strip(), call.run

    async def rendered(
        self, call: Call, recipe: str, variables: Mapping[str, Any], *, subject: Subject = NOBODY
    ) -> tuple[list[Message], Release]:
        """A recipe's messages, judged for `call`, which asks its worker in another way."""
        release = await self._resolved(call, recipe, PRODUCTION, variables)
        return await self._render(call, release, variables, (), _texts(variables, ()), subject=subject), release

    async def replay(
        self,
        release: Release,
        messages: list[Message],
        fields: Mapping[str, Any],
        run: Run,
        contents: Contents,
        caller: Caller,
    ) -> tuple[str, Run]:
        """Call the engine again with a run's messages, its other `fields`, its sampling and its seed."""
        async with self.judge.call(caller) as call:
            again, speech = call.run, chat_api.of_route(run.route)
            again.recipe, again.version, again.release_sha256 = release.recipe, release.version, release.sha256
            again.sampling, again.seed, again.variables_sha256 = run.sampling, run.seed, run.variables_sha256
            again.control_tokens = run.control_tokens
            again.messages_sha256 = messages_sha256(messages)
            given = texts.of(messages, "messages") + texts.of_body(fields)
            await call.judge(given.strings, "text", recipe_tier=release.tier, subject=given.subject)
            await call.keep(contents)
            contents.output = await self._whole(call, speech, release.model, messages, {**fields, "stream": False})
        return contents.output, again

    async def _whole(
        self,
        call: Call,
        speech: chat_api.Dialect,
        model: str,
        messages: list[Message],
        fields: Mapping[str, Any],
        *,
        key: str | None = None,
    ) -> str:
        """The text of an engine's whole answer, within the caller's limits; its proof and its usage in the run."""
        caller, run = call.caller, call.run
        await self._limit(call, model, messages, fields)
        engine = self._engines.engine(model, speech.ability, caller.request_id, key=key, **caller.place)
        async with engine as (client, name, worker):
            run.worker, run.model = worker, name
            response = await speech.whole(client, name, messages, fields)
            call.work.repeated = REPEATED in response.headers
            call.compare(response.headers.get(WORKER_HEADER))
            run.took(estimated(msgspec.json.encode(messages), response.content))
            answer = speech.reader.whole(response.content)
            run.took(answer.usage)
            return proved(run, answer)

    async def _limit(self, call: Call, model: str, messages: Any, fields: Mapping[str, Any]) -> None:
        """Set aside what asking the model for this may take at most."""

        def most() -> Needs:
            body = msgspec.json.encode({**fields, "messages": messages})
            return costs.most("chat", body, self._engines.context(model))

        await call.limit(most)

    async def _resolved(self, call: Call, recipe: str, version: str, variables: Mapping[str, Any]) -> Release:
        """The release that is asked for, noted in the run. Raises NotFound, InvalidRequest."""
        caller, run = call.caller, call.run
        release = await self._registry.resolve(recipe, version, tenant=caller.key.tenant, sticky=caller.sticks_to)
        run.recipe, run.version, run.label = release.recipe, release.version, version
        run.release_sha256, run.release_tier, run.policy_version = release.sha256, release.tier, release.policy_version
        release.check(variables)
        run.variables_sha256 = sha256_of_fields(variables, "prompt.variables")
        return release

    async def _render(
        self,
        call: Call,
        release: Release,
        variables: Mapping[str, Any],
        history: Sequence[Message],
        given: Texts,
        *,
        surface: Surface = "text",
        fields: Mapping[str, Any] | None = None,
        subject: Subject = NOBODY,
    ) -> list[Message]:
        """The messages, judged: all that was `given` by the caller, and with it what the template made of it."""
        tokens, seen = self._engines.control_tokens(release.model), set[str]()
        no_forged_turn(tokens.find(chat_api.shown(fields or {})), "tools")
        messages = release.render(variables, history, tokens, seen)
        call.run.control_tokens = tokens.recorded(seen)
        call.run.messages_sha256 = messages_sha256(messages)
        if given.unread is not None:
            call.refuse_unchecked(given.unread)
        rendered = texts.of(messages, "messages").strings
        # First alone: what a template says of its own (that everyone is an adult) must not speak for the caller.
        for strings, last in ((given.strings, False), ([*given.strings, *rendered], True)):
            await call.judge(
                strings,
                surface,
                recipe_tier=release.tier,
                policy_version=release.policy_version,
                subject=replace(subject, real=subject.real or given.pictured),
                last=last,
            )
        return messages


def _texts(variables: Mapping[str, Any], history: Sequence[Message]) -> Texts:
    return texts.of(dict(variables), "variables") + texts.of(list(history), "messages")

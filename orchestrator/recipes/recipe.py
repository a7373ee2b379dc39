"""A recipe: the caller names a prompt instead of sending one. Resolve → render → judge → call the model → prove."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import openai
from starlette.types import Send

from core.errors import Conflict, InvalidRequest, SoundstageError
from core.http.idempotency import REPEATED
from core.json.canonical import messages_sha256, sha256_of_any, sha256_of_fields
from core.json.text import decoded
from core.untrusted import storable
from core.usage import Usage, estimated, read_whole
from orchestrator.access.limits import Needs
from orchestrator.access.payments import Answer
from orchestrator.engines import chat_api
from orchestrator.engines.client import Engines
from orchestrator.gateway import costs
from orchestrator.gateway.body import StoredPrompt
from orchestrator.gateway.usage import ASK_REFUSED, Reading
from orchestrator.gateway.usage_stream import asking, wanted_by
from orchestrator.policy import texts
from orchestrator.policy.floor import Subject, Surface
from orchestrator.policy.texts import Texts, no_forged_turn
from orchestrator.recipes.passing import pass_on, proved
from orchestrator.runs.caller import Caller
from orchestrator.runs.judge import WORKER_HEADER, Judge, Marked
from orchestrator.runs.record import Contents, Run
from prompts.registry import PRODUCTION, Registry
from prompts.render import Message, Release

NOBODY = Subject()


class _Way(NamedTuple):
    """What an engine is asked, how its answer is read, and whether there is no other way left."""

    fields: Mapping[str, Any]
    reading: Reading
    last: bool = True


class RecipeRunner:
    """Answers a request that names a recipe; pipelines use `text` for their single steps."""

    def __init__(self, registry: Registry, engines: Engines, judge: Judge) -> None:
        self._registry = registry
        self._engines = engines
        self.judge = judge

    async def answer(self, prompt: StoredPrompt, body: bytes, caller: Caller, send: Send) -> None:
        """Answer on raw ASGI, JSON or SSE, with the proof of what made it."""
        sent: dict[str, Any] = decoded(body)
        speech = chat_api.of_route(caller.route)
        history = speech.history(sent)
        fields = {name: value for name, value in sent.items() if name not in speech.own}
        _check_recorded(fields)
        if "admin" not in caller.key.scopes:
            _refuse_showing(fields)
        variables = chat_api.variables(prompt.variables)
        run, release = await self._begin(prompt.id, prompt.version, variables, caller)
        said = texts.of_body(sent)
        messages = await self._render(run, release, variables, history, caller, "text", said, fields=fields)
        own = speech.sampling(release.sampling)
        request = {**own, **fields}
        run.sampling, run.seed = recorded(request, own), request.get("seed")
        days = await self._days(caller)
        contents = Contents(variables, history, fields=fields) if days else None
        async with self._within_limits(run, caller, release.model, messages, request):
            await self._pass(run, release.model, messages, request, caller, send, contents, days)

    async def prove(self, run: Run, model: str, body: bytes, caller: Caller, send: Send) -> None:
        """Answer a judged request with the caller's own messages, with the hash of its prompt's tokens too."""
        fields: dict[str, Any] = decoded(body)
        messages = fields.pop(chat_api.of_route(caller.route).messages, None)
        await self._pass(run, model, messages, fields, caller, send)

    async def _pass(
        self,
        run: Run,
        model: str,
        messages: Any,
        request: Mapping[str, Any],
        caller: Caller,
        send: Send,
        contents: Contents | None = None,
        days: int = 0,
    ) -> None:
        """Call the engine and pass its answer on, with its proof; the run is recorded however that ends."""
        speech = chat_api.of_route(caller.route)
        ids_wanted = any(request.get(name) for name in speech.ids)
        marked = Marked(self.judge, run, send)
        ways = _ways(speech, messages, request)
        reading = ways[0].reading
        error: BaseException | None = None
        try:
            engine = self._engines.engine(model, speech.ability, caller.request_id, **caller.place)
            async with engine as (client, name, worker), contextlib.AsyncExitStack() as stack:
                run.worker, run.model = worker, name
                for way in ways:
                    reading = way.reading
                    try:
                        call = speech.call(client, name, messages, way.fields)
                        response = await stack.enter_async_context(call)
                        break
                    except openai.APIStatusError as exc:
                        if way.last or exc.status_code not in ASK_REFUSED:
                            raise
                self.judge.compare(run, response.headers.get(WORKER_HEADER))
                raw = response.http_response
                text = await pass_on(raw, run, marked, speech.reader, reading, ids_wanted=ids_wanted)
                if contents is not None:
                    contents.output = text
        except BaseException as exc:  # a client that leaves, too: every run is recorded
            error = exc
            raise
        finally:
            usage = reading.count(error=error) if run.worker else None
            run.took(usage)
            if caller.entry is not None:
                caller.entry.usage = usage
            marked.settle(error, contents, days)

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
        run, release = await self._begin(recipe, PRODUCTION, variables, caller)
        said = _told(variables, history) + texts.of(list(also))
        messages = await self._render(run, release, variables, history, caller, surface, said, subject=subject)
        run.sampling = dict(release.sampling)
        days = await self._days(caller)
        contents = Contents(dict(variables), list(history))
        status = 502
        try:
            engine = self._engines.engine(release.model, "chat", caller.request_id, key=key, **caller.place)
            limits = self._within_limits(run, caller, release.model, messages, release.sampling)
            async with limits as answer, engine as (client, model, worker):
                run.worker, run.model = worker, model
                response = await chat_api.CHAT.whole(client, model, messages, release.sampling)
                answer.repeated = REPEATED in response.headers
                self.judge.compare(run, response.headers.get(WORKER_HEADER))
                run.took(_of_whole(messages, response.content))
                contents.output = storable(proved(run, chat_api.CHAT.reader.whole(response.content)))
                status = 200
        except SoundstageError as exc:
            status = exc.status
            raise
        finally:
            self.judge.settle(run, status, contents if days else None, days)
        return contents.output.strip(), run

    def _within_limits(
        self, run: Run, caller: Caller, model: str, messages: Any, fields: Mapping[str, Any]
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """What asking the model for this may take at most, set aside for the block."""

        def asked() -> Needs:
            body = msgspec.json.encode({**fields, "messages": messages})
            return costs.most("chat", body, self._engines.context(model))

        return self.judge.within_limits(run, caller, asked)

    async def rendered(
        self, recipe: str, variables: Mapping[str, Any], caller: Caller, *, subject: Subject = NOBODY
    ) -> tuple[list[Message], Release, Run]:
        """A recipe's messages, judged, for a worker that is asked in another way; who asks it settles the run."""
        run, release = await self._begin(recipe, PRODUCTION, variables, caller)
        said = _told(variables, ())
        return await self._render(run, release, variables, (), caller, "text", said, subject=subject), release, run

    async def replay(
        self, release: Release, messages: list[Message], fields: Mapping[str, Any], run: Run, caller: Caller
    ) -> tuple[str, Run]:
        """Call the engine again with a run's messages, its other `fields`, its sampling and its seed."""
        again = self.judge.begin(caller)
        again.recipe, again.version, again.release_sha256 = release.recipe, release.version, release.sha256
        again.sampling, again.seed, again.variables_sha256 = run.sampling, run.seed, run.variables_sha256
        again.control_tokens = run.control_tokens
        speech = chat_api.of_route(run.route)
        again.messages_sha256 = messages_sha256(messages)
        said = texts.of(messages, "messages") + texts.of_body(fields)
        await self.judge.admit(again, caller, said.strings, "text", recipe_tier=release.tier, subject=said.subject)
        engine = self._engines.engine(release.model, speech.ability, caller.request_id, **caller.place)
        limits = self._within_limits(again, caller, release.model, messages, fields)
        status = 502
        try:
            async with limits, engine as (client, model, worker):
                again.worker, again.model = worker, model
                response = await speech.whole(client, model, messages, {**fields, "stream": False})
                self.judge.compare(again, response.headers.get(WORKER_HEADER))
                again.took(_of_whole(messages, response.content))
                output = proved(again, speech.reader.whole(response.content))
            status = 200
        except SoundstageError as exc:
            status = exc.status
            raise
        finally:
            self.judge.settle(again, status)
        return output, again

    async def _begin(
        self, recipe: str, wanted: str, variables: Mapping[str, Any], caller: Caller
    ) -> tuple[Run, Release]:
        run = self.judge.begin(caller)
        release = await self._registry.resolve(recipe, wanted, tenant=caller.key.tenant, sticky=caller.sticks_to)
        run.recipe, run.version, run.label = release.recipe, release.version, wanted
        run.release_sha256, run.release_tier, run.policy_version = release.sha256, release.tier, release.policy_version
        release.check(variables)
        run.variables_sha256 = sha256_of_fields(variables, "prompt.variables")
        return run, release

    async def _render(
        self,
        run: Run,
        release: Release,
        variables: Mapping[str, Any],
        history: Sequence[Message],
        caller: Caller,
        surface: Surface,
        said: Texts,
        *,
        fields: Mapping[str, Any] | None = None,
        subject: Subject = NOBODY,
    ) -> list[Message]:
        """The messages, judged: all that the caller `said`, and with it what the template made of it."""
        tokens, seen = self._engines.control_tokens(release.model), set[str]()
        no_forged_turn(tokens.find(chat_api.shown(fields or {})), "tools")
        messages = release.render(variables, history, tokens, seen)
        run.control_tokens = tokens.recorded(seen)
        run.messages_sha256 = messages_sha256(messages)
        if said.unread is not None:
            self.judge.refuse_unchecked(run, said.unread)
        rendered = texts.of(messages, "messages").strings
        # First alone: what a template says of its own (that everyone is an adult) must not speak for the caller.
        for strings, last in ((said.strings, False), ([*said.strings, *rendered], True)):
            await self.judge.admit(
                run,
                caller,
                strings,
                surface,
                recipe_tier=release.tier,
                policy_version=release.policy_version,
                subject=replace(subject, real=subject.real or said.pictured),
                last=last,
            )
        return messages

    async def _days(self, caller: Caller) -> int:
        """How long this tenant keeps contents; 0 where it keeps none."""
        standing = await self.judge.policies.standing(caller.key.tenant)
        return standing.contents_days if standing.store_contents else 0


def _told(variables: Mapping[str, Any], history: Sequence[Message]) -> Texts:
    return texts.of(dict(variables), "variables") + texts.of(list(history), "messages")


_SHOWING = frozenset(("echo", "prompt_logprobs", "return_prompt_text", "return_token_ids", "enable_response_messages"))
"""By these an engine repeats the prompt in its answer."""


def _refuse_showing(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field that would show a recipe's text."""
    for name in _SHOWING.intersection(fields):
        if fields[name] not in (None, False):
            raise InvalidRequest(
                f"`{name}` would show the recipe's text, which is for admins' keys alone.",
                param=name,
                code="field_refused",
            )


def _check_recorded(fields: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field that the record of the run could not keep."""
    for name in fields:
        if "\0" in name:
            raise InvalidRequest("The name of a field holds a NUL character.", param=name, code="invalid_name")
    seed = fields.get("seed")
    if seed is not None and not (type(seed) is int and -(2**63) <= seed < 2**63):
        raise InvalidRequest("`seed` is a whole number of 64 bits.", param="seed", code="invalid_seed")


def recorded(request: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request as a record keeps them: the release's `own` and plain numbers as they are, of what else
    the caller sent a hash only."""
    passing = {name: value for name, value in request.items() if name not in ("stream", "stream_options")}
    return {
        name: value
        if isinstance(value, int | float | None) or own.get(name) == value
        else {"sha256": sha256_of_any(value)}
        for name, value in passing.items()
    }


def unrecorded(sampling: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields again that `recorded` made `sampling` of. Raises Conflict where `fields` lack one, or hold another."""
    found = {}
    for name, value in sampling.items():
        if isinstance(value, dict) and set(value) == {"sha256"}:
            if name not in fields or sha256_of_any(fields[name]) != value["sha256"]:
                raise Conflict(
                    f"The run's `{name}` was not kept: send it in `fields`.", param="fields", code="other_fields"
                )
            value = fields[name]
        found[name] = value
    return found


def _ways(speech: chat_api.Dialect, messages: Any, request: Mapping[str, Any]) -> list[_Way]:
    """As the caller asked; before that, of a stream, asking for its usage too."""
    sent = len(msgspec.json.encode(messages))
    options = request.get("stream_options")
    answers_wanted = costs.whole(request.get("n")) or 1
    wanted = wanted_by(request.get("stream"), options, answers_wanted) if speech.ability == "chat" else None
    own = _Way(request, Reading(speech.ability, sent, wanted))
    if wanted is None or wanted.everything:
        return [own]
    fields = {**request, "stream_options": asking(options)}
    return [_Way(fields, Reading(speech.ability, sent, wanted, cuts=True), last=False), own]


def _of_whole(messages: Any, answer: bytes) -> Usage:
    return read_whole(answer) or estimated(msgspec.json.encode(messages), answer)

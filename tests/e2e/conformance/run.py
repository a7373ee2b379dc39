"""The battery against the engine itself and through the gateway, one request at a time; and what may differ, with its
reason. The gateway's own answer is named there: it cannot change unseen."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp

from tests.e2e.conformance.battery import Case
from tests.e2e.conformance.compare import Answer, answered, differences
from tests.e2e.studio import Studio

TRIES = 3


class Exemption(NamedTuple):
    """The gateway answers so, with an error of this code, whatever the engine would say."""

    status: int
    code: str
    reason: str


EXEMPTIONS = {
    "an unknown model": Exemption(404, "model_not_found", "the gateway names the models that exist here"),
    "no model": Exemption(400, "missing_model", "the gateway routes by it; an engine has but one to choose from"),
    "a picture from elsewhere": Exemption(
        400, "media_url_refused", "no engine follows an address that a caller chose (MEDIA_DOMAINS)"
    ),
    "the caller's own chat template": Exemption(400, "field_refused", "it would replace what the model sees"),
    "arguments for the chat template": Exemption(400, "field_refused", "an admin key's only, for the same reason"),
    "a control token in a message": Exemption(400, "control_token", "it would end a turn and forge another"),
    "not JSON": Exemption(400, "json_invalid", "read by the gateway first, which must know the model"),
    "JSON that is no object": Exemption(400, "invalid_body", "the same"),
    "no body": Exemption(400, "json_invalid", "the same"),
    "another content type": Exemption(400, "json_invalid", "the same"),
    "another method": Exemption(405, "method_not_allowed", "the gateway answers with OpenAI's envelope"),
    "detokenize what is no token": Exemption(
        400, "invalid_value", "the chat worker refuses ids that no tokenizer holds: vLLM answers large ones with a 500"
    ),
    "embeddings of a model that has none": Exemption(
        404, "model_not_found", "the worker did not declare the ability, so nobody is asked"
    ),
}


@dataclass(frozen=True)
class Side:
    base: str  # an address without a path
    key: str


@dataclass(frozen=True)
class Verdict:
    """`differs` is empty where both said the same; `exempt` is why they may not. `unsteady`: how often the engine
    differed from itself before it said one thing twice."""

    case: Case
    engine: Answer
    gateway: Answer
    differs: list[str]
    exempt: Exemption | None
    unsteady: int

    @property
    def unexplained(self) -> bool:
        return bool(self.differs) and self.exempt is None


async def sides(studio: Studio) -> tuple[Side, Side]:
    """vLLM as the chat worker runs it, and the gateway with a plain key."""
    engine = Side(f"http://127.0.0.1:{studio.engine_port()}", studio.engine().environ()["VLLM_API_KEY"])
    base = studio.base_url.removesuffix("/v1")
    plain = {"name": "conformance", "scopes": ["chat"]}
    async with studio.session() as session, session.post(f"{base}/v1/keys", json=plain) as answer:
        answer.raise_for_status()
        return engine, Side(base, (await answer.json())["secret"])


async def compared(engine: Side, gateway: Side, cases: Sequence[Case]) -> AsyncIterator[Verdict]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        for case in cases:
            yield await _one(session, engine, gateway, case)


async def _one(session: aiohttp.ClientSession, engine: Side, gateway: Side, case: Case) -> Verdict:
    """An engine that says two things of one request (its prefix cache was cold, or a batch was cut otherwise) is asked
    again: a difference counts where the engine said the same before and after the gateway."""
    before = await answered(session, engine.base, engine.key, case)
    for unsteady in range(TRIES):
        through = await answered(session, gateway.base, gateway.key, case)
        differs = differences(before, through)
        if not differs:
            return Verdict(case, before, through, [], None, unsteady)
        after = await answered(session, engine.base, engine.key, case)
        if not differences(before, after):
            break
        before = after
    return Verdict(case, before, through, differs, _exemption(case.name, through), unsteady)


def _exemption(name: str, gateway: Answer) -> Exemption | None:
    """Why this case may differ, where the gateway's answer is the one that was expected."""
    found = EXEMPTIONS.get(name)
    error: Any = gateway.body.get("error") if isinstance(gateway.body, dict) else None
    if found is None or not isinstance(error, dict) or set(error) != {"message", "type", "param", "code"}:
        return None
    return found if (gateway.status, error["code"]) == (found.status, found.code) else None

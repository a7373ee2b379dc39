"""Every difference that there may be, with its reason. The gateway's own answer is named: it cannot change unseen."""

from typing import Any, NamedTuple

from bench.conformance.compare import Answer


class Allowed(NamedTuple):
    """The gateway answers so, with an error of this code, whatever the engine would say."""

    status: int
    code: str
    reason: str


ALLOWED: dict[str, Allowed] = {
    "an unknown model": Allowed(404, "model_not_found", "the gateway names the models that exist here"),
    "no model": Allowed(400, "missing_model", "the gateway routes by it; an engine has but one to choose from"),
    "a picture from elsewhere": Allowed(
        400, "media_url_refused", "no engine follows an address that a caller chose (MEDIA_DOMAINS)"
    ),
    "the caller's own chat template": Allowed(400, "field_refused", "it would replace what the model sees"),
    "arguments for the chat template": Allowed(400, "field_refused", "an admin key's only, for the same reason"),
    "a control token in a message": Allowed(400, "control_token", "it would end a turn and forge another"),
    "not JSON": Allowed(400, "json_invalid", "read by the gateway first, which must know the model"),
    "JSON that is no object": Allowed(400, "invalid_body", "the same"),
    "no body": Allowed(400, "json_invalid", "the same"),
    "another content type": Allowed(400, "json_invalid", "the same"),
    "another method": Allowed(405, "method_not_allowed", "the gateway answers with OpenAI's envelope"),
    "detokenize what is no token": Allowed(
        400, "invalid_value", "the chat worker refuses ids that no tokenizer holds: vLLM answers large ones with a 500"
    ),
    "embeddings of a model that has none": Allowed(
        404, "model_not_found", "the worker did not declare the ability, so nobody is asked"
    ),
}


def explained(name: str, gateway: Answer) -> Allowed | None:
    """Why this case may differ, where the gateway's answer is the one that was expected."""
    allowed = ALLOWED.get(name)
    error: Any = gateway.body.get("error") if isinstance(gateway.body, dict) else None
    if allowed is None or not isinstance(error, dict):
        return None
    as_expected = (gateway.status, error.get("code")) == (allowed.status, allowed.code)
    return allowed if as_expected and set(error) == {"message", "type", "param", "code"} else None

"""The relay's paths in the published OpenAPI. They are raw ASGI handlers, of which FastAPI knows nothing.

Only what the gateway itself reads is told, and what every engine understands: all other fields pass as they are.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from orchestrator.gateway.paths import Path

JSON, FORM = "application/json", "multipart/form-data"
_TEXT, _WHOLE, _FILE = {"type": "string"}, {"type": "integer"}, {"type": "string", "format": "binary"}
_NUMBER, _YES_NO = {"type": "number"}, {"type": "boolean"}
_PART = {"type": "object", "properties": {"type": _TEXT, "text": _TEXT}, "required": ["type"]}
_CONTENT = {"anyOf": [_TEXT, {"type": "array", "items": _PART}, {"type": "null"}]}
_MESSAGE = {"type": "object", "properties": {"role": _TEXT, "content": _CONTENT}, "required": ["role"]}
_PROMPT = {
    "type": "object",
    "description": "A recipe by name; `version` is a label or a number.",
    "properties": {"id": _TEXT, "version": _TEXT, "variables": {"type": "object"}},
    "required": ["id"],
}
_SAMPLED = {"model": _TEXT, "stream": _YES_NO, "temperature": _NUMBER, "top_p": _NUMBER, "seed": _WHOLE, "n": _WHOLE}
_MESSAGES = {"type": "array", "items": _MESSAGE}
_TEXTS = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_PICTURE = {"prompt": _TEXT, "model": _TEXT, "n": _WHOLE, "size": _TEXT, "stream": _YES_NO}

BODIES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "/v1/chat/completions": (JSON, {**_SAMPLED, "messages": _MESSAGES, "max_tokens": _WHOLE, "prompt": _PROMPT}, []),
    "/v1/completions": (JSON, {**_SAMPLED, "prompt": _TEXTS, "max_tokens": _WHOLE, "suffix": _TEXT}, ["model"]),
    "/v1/responses": (
        JSON,
        {**_SAMPLED, "input": {"anyOf": [_TEXT, _MESSAGES]}, "instructions": _TEXT, "prompt": _PROMPT},
        [],
    ),
    "/v1/embeddings": (JSON, {"model": _TEXT, "input": _TEXTS}, ["model", "input"]),
    "/tokenize": (JSON, {"model": _TEXT, "prompt": _TEXT, "messages": _MESSAGES}, ["model"]),
    "/detokenize": (JSON, {"model": _TEXT, "tokens": {"type": "array", "items": _WHOLE}}, ["model", "tokens"]),
    "/v1/images/generations": (JSON, _PICTURE, ["prompt"]),
    "/v1/images/edits": (FORM, {**_PICTURE, "image": _FILE, "mask": _FILE}, ["image", "prompt"]),
    "/v1/profile/analyze": (FORM, {"image": _FILE}, ["image"]),
}
"""Of each path: how its body is written, its fields, and those that must be there."""


def publish(api: FastAPI, paths: Mapping[str, Path]) -> None:
    """Add the relay's paths, to what the application says of itself."""
    generated = api.openapi

    def whole() -> dict[str, Any]:
        described = generated()
        for name, path in paths.items():
            described["paths"].setdefault(name, {"post": _operation(name, path.ability, path.scope)})
        return described

    api.openapi = whole  # type: ignore[method-assign]  # what FastAPI's documentation tells to do


def _operation(path: str, ability: str, scope: str) -> dict[str, Any]:
    kind, fields, required = BODIES[path]
    body = {"type": "object", "properties": fields, **({"required": required} if required else {})}
    return {
        "tags": ["relayed"],
        "summary": f"Relayed to a worker that declared `{ability}`",
        "description": f"For keys with the scope `{scope}`. Fields that are not named here pass as they are.",
        "operationId": "relayed_" + path.strip("/").replace("/", "_"),
        "requestBody": {"required": True, "content": {kind: {"schema": body}}},
        "responses": {
            "200": {"description": "The worker's answer, as it comes"},
            "4XX": {"description": "OpenAI's error envelope"},
        },
    }

"""Recipes for tests."""

from typing import Any

from prompts.sources import MessageSource, RecipeSource

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["message"],
    "additionalProperties": False,
    "properties": {
        "message": {"type": "string", "minLength": 1, "maxLength": 4000},
        "name": {"type": "string", "minLength": 1, "maxLength": 80},
        "tags": {"type": "array", "maxItems": 50, "items": {"type": "string", "maxLength": 40}},
        "turns": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["who", "words"],
                "additionalProperties": False,
                "properties": {
                    "who": {"type": "string", "maxLength": 20},
                    "words": {"type": "array", "maxItems": 20, "items": {"type": "string", "maxLength": 20}},
                },
            },
        },
    },
}


def recipe(user: str = "{{ message }}", system: str | None = "You are brief.", **fields: Any) -> RecipeSource:
    """A recipe of two messages."""
    given = {"name": "greet", "model": "qwen_instruct", "sampling": {"temperature": 0}, "variables": SCHEMA, **fields}
    messages = [MessageSource("system", "greet/system", system)] if system is not None else []
    return RecipeSource(messages=(*messages, MessageSource("user", "greet/user", user)), **given)

"""Many checkpoints' chat templates put in a system message of their own when the caller sends none.

A pure worker must not: `without_default_system` takes that text out and proves by rendering that it is gone.
"""

from os.path import commonprefix
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

_PROBE = [{"role": "user", "content": "\u2603probe\u2603"}]
_TOOL = {"type": "function", "function": {"name": "probe", "description": "", "parameters": {"type": "object"}}}


class ChatTemplateError(ValueError):
    """The template adds a system message in a way that could not be taken out."""


def render(template: str, messages: list[dict[str, Any]], **extra: Any) -> str:
    """The prompt's text as the engine's tokenizer would render it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise
    given = {"add_generation_prompt": True, "bos_token": "", "eos_token": "", **extra}
    return environment.from_string(template).render(messages=messages, **given)


def default_system(template: str) -> str:
    """The text that the template puts before a lone user message beyond that message's own turn; "" if none. Raises
    ChatTemplateError where the template cannot be rendered, or does not show a message's text just once."""
    user, answer = _PROBE[0], {"role": "assistant", "content": "-"}
    try:
        try:
            first, between, tail = _around(template, [user, user])
            head = between.removeprefix(tail)  # what opens a user turn, read off the second of two equal turns
        except TemplateError:  # it wants users and assistants by turns
            first, between, _ = _around(template, [user, answer, user])
            head = commonprefix([first[::-1], between[::-1]])[::-1]  # noqa: RUF071 - texts, not paths
    except (TemplateError, ValueError) as exc:
        raise ChatTemplateError(f"the chat template cannot be examined: {exc}") from exc
    return first.removesuffix(head)


def without_default_system(template: str) -> str:
    """The template with its default system message taken out. Raises ChatTemplateError if any of it is left."""
    block = default_system(template)
    if not block:
        return template
    bare = _drop_literal(template, block)
    words = _text_of(block)
    if words:
        bare = _drop_literal(bare, words)
    if default_system(bare) or (words and words in _with_tools(bare)):
        raise ChatTemplateError("the chat template's default system message could not be removed")
    return bare


def _around(template: str, messages: list[dict[str, Any]]) -> list[str]:
    """The rendered text before, between and after the probe's words."""
    return render(template, messages, add_generation_prompt=False).split(_PROBE[0]["content"])


def _text_of(block: str) -> str:
    """The words inside a system block, without its control tokens and role line."""
    inner = block.split("<|im_start|>system\n", 1)[-1]
    return inner.split("<|im_end|>", 1)[0].strip()


def _drop_literal(template: str, text: str) -> str:
    """Empty every string literal that is exactly `text`, in the ways Jinja source can write it."""
    spellings = {text, text.replace("\n", "\\n")}
    for spelling in spellings:
        for quote in ("'", '"'):
            template = template.replace(f"{quote}{spelling}{quote}", quote * 2)
    return template


def _with_tools(template: str) -> str:
    try:
        return render(template, _PROBE, tools=[_TOOL])
    except TemplateError:
        return ""


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)

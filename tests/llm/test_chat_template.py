"""A checkpoint's own default system message is taken out of its chat template, and nothing else is."""

from typing import Any

import pytest

from llm.chat_template import ChatTemplateError, default_system, render, without_default_system

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "from the caller"}
ANSWER = {"role": "assistant", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "look", "description": "", "parameters": {"type": "object"}}}

TURNS = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
NONE_GIVEN = "{%- if messages[0].role != 'system' %}"
WORDS = "Words of the checkpoint."


def block(words: str = WORDS, line: str = "\\n", quote: str = "'") -> str:
    return f"{{{{- {quote}<|im_start|>system{line}{words}<|im_end|>{line}{quote} }}}}"


WITH_TOOLS = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- else %}{{- 'Words of the checkpoint.' }}"
    "{%- endif %}{{- '\\nTools:' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    "{%- elif messages[0].role != 'system' %}" + block() + "{%- endif %}" + TURNS
)

DEFAULTS: dict[str, str] = {
    "one literal": NONE_GIVEN + block() + "{%- endif %}" + TURNS,
    "in double quotes": NONE_GIVEN + block(quote='"') + "{%- endif %}" + TURNS,
    "over several lines of source": NONE_GIVEN + block(line="\n") + "{%- endif %}" + TURNS,
    "words of several lines": NONE_GIVEN + block("Words\\nof the checkpoint.") + "{%- endif %}" + TURNS,
    "with a branch for tools": WITH_TOOLS,
    "inside the loop": TURNS.replace(
        "{%- for message in messages %}",
        "{%- for message in messages %}{%- if loop.first and message.role != 'system' %}" + block() + "{%- endif %}",
    ),
    "with an apostrophe": NONE_GIVEN + block("The checkpoint's words.", quote='"') + "{%- endif %}" + TURNS,
}

CONVERSATIONS: list[list[dict[str, Any]]] = [[USER], [SYSTEM, USER], [USER, ANSWER, USER], [SYSTEM, USER, ANSWER, USER]]


@pytest.mark.parametrize("template", DEFAULTS.values(), ids=DEFAULTS.keys())
def test_a_default_is_taken_out(template: str) -> None:
    assert "checkpoint" in default_system(template)
    bare = without_default_system(template)
    for messages in CONVERSATIONS:
        assert render(bare, messages) == render(TURNS, messages)


def test_the_callers_system_message_and_tools_stay() -> None:
    bare = without_default_system(WITH_TOOLS)
    for messages in ([USER], [SYSTEM, USER]):
        text = render(bare, messages, tools=[TOOL])
        assert ("look" in text, WORDS in text, SYSTEM["content"] in text) == (True, False, len(messages) == 2)


BY_TURNS = (
    "{%- for message in messages %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('by turns') }}{%- endif %}"
    "{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}"
    "{%- else %}{{- message.content + '</s>' }}{%- endif %}{%- endfor %}"
)

PURE: dict[str, str] = {
    "plain turns": TURNS,
    "a system message only where it is sent": "{%- if messages[0].role == 'system' %}{%- endif %}" + TURNS,
    "users and assistants by turns": BY_TURNS,
    "words that are never said": "{%- set unused = 'Words of the checkpoint.' %}" + TURNS,
}


@pytest.mark.parametrize("template", PURE.values(), ids=PURE.keys())
def test_a_template_without_a_default_stays_as_it_is(template: str) -> None:
    assert default_system(template) == ""
    assert without_default_system(template) == template


STUCK: dict[str, str] = {
    "not a literal": NONE_GIVEN + "<|im_start|>system\nWords<|im_end|>\n{% endif %}" + TURNS,
    "put together from parts": NONE_GIVEN
    + "{{- '<|im_start|>system\\n' + 'Wor' + 'ds' + '<|im_end|>\\n' }}{%- endif %}"
    + TURNS,
    "an empty block would be left": NONE_GIVEN
    + "{{- '<|im_start|>system\\n' }}{{- 'Words' }}{{- '<|im_end|>\\n' }}{%- endif %}"
    + TURNS,
    "by turns, with a default": "{{- '[SYS] Wor' + 'ds [/SYS]' }}" + BY_TURNS,
    "no template at all": "{% if %}",
    "refuses everything": "{{- raise_exception('no') }}",
    "shows no message": "nothing",
}


@pytest.mark.parametrize("template", STUCK.values(), ids=STUCK.keys())
def test_what_cannot_be_made_pure_is_not_used(template: str) -> None:
    with pytest.raises(ChatTemplateError):
        without_default_system(template)

"""Every hostile template and value is refused, or done within 50 ms of processor time and 64 MiB."""

import gc
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from core import control_tokens
from core.errors import InvalidRequest
from prompts import contract
from prompts.lint import TemplateError
from prompts.render import Message, Release
from prompts.sources import RecipeSource
from tests.prompts.hostile import TEMPLATES, VALUES
from tests.prompts.recipes import SCHEMA, recipe

CPU_SECONDS = 0.05
MEMORY = 64 << 20
LOOPED = (
    "{% for t in turns %}{{ t.who|upper }}: {% for w in t.words %}{{ w }} {% endfor %}\n{% endfor %}"
    "{{ tags|sort|join(', ') }} {{ message|tojson }} {{ message|upper }} {{ message|title }} {{ message|wordcount }}"
)


ALL = {**SCHEMA, "required": ["message", "name", "tags", "turns"]}


class OutOfTimeError(BaseException):
    """Not an Exception: nothing that is tested may catch it."""


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """The process's own time, by a timer of the system: another process's work does not count."""

    def ring(_: int, __: FrameType | None) -> None:
        raise OutOfTimeError(f"more than {seconds} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def memory(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= most
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_new_is_collected() -> Iterator[None]:
    """A collection in the middle of a test takes its processor time: what other tests left is set aside."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def strict() -> Release:
    return contract.check(recipe(LOOPED, variables=ALL))


@pytest.fixture(scope="module")
def lenient() -> Release:
    return contract.check(recipe(LOOPED, variables=ALL, control_tokens="neutralise"))


def test_the_corpora_are_large_enough() -> None:
    assert len(set(TEMPLATES)) >= 60
    assert len(set(VALUES)) >= 60


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda text: repr(text[:50]))
def test_hostile_template(template: str) -> None:
    gc.collect()
    with pytest.raises(InvalidRequest), processor_time(CPU_SECONDS):
        contract.check(recipe(template, variables=SCHEMA))
    with memory(MEMORY), pytest.raises(InvalidRequest):
        contract.check(recipe(template, variables=SCHEMA))


def rendered(release: Release, variables: dict[str, object]) -> tuple[list[Message], str | None]:
    """The messages, or the code of the refusal."""
    try:
        return release.render(variables), None
    except InvalidRequest as exc:
        return [], exc.code


def fullest(value: str) -> dict[str, object]:
    """The value wherever the schema has room for it."""
    turn = {"who": value[:20], "words": [value[:20]] * 20}
    return {"message": value, "name": value[:80] or "n", "tags": [value[:40]] * 50, "turns": [turn] * 20}


@pytest.mark.parametrize("value", VALUES, ids=lambda text: repr(text[:30]).encode("ascii", "replace").decode())
@pytest.mark.parametrize("choice", ["refuse", "neutralise"])
def test_hostile_value(value: str, choice: str, strict: Release, lenient: Release) -> None:
    release = strict if choice == "refuse" else lenient
    for limit in (processor_time(CPU_SECONDS), memory(MEMORY)):
        with limit:
            messages, code = rendered(release, fullest(value))
        assert code in (None, "control_token", "invalid_variables", "render_too_long")
        assert choice == "refuse" or code != "control_token"
        if code is not None:
            continue
        assert control_tokens.COMMON.find(messages) is None
        assert [message["role"] for message in messages] == ["system", "user"]


def test_a_value_is_never_rendered_again(strict: Release) -> None:
    assert (
        "{{ 7 * 7 }}" in strict.render({"message": "{{ 7 * 7 }}", "name": "n", "tags": [], "turns": []})[1]["content"]
    )


def test_a_token_that_grows_from_two_values_is_seen() -> None:
    release = contract.check(recipe("{{ message }}{% if name is defined %}{{ name }}{% endif %}"))
    with pytest.raises(InvalidRequest) as raised:
        release.render({"message": "a <|im_", "name": "start|> b"})
    assert raised.value.code == "control_token"


def test_the_callers_history_is_scanned_too() -> None:
    source = recipe()
    history = [{"role": "user", "content": [{"type": "text", "text": "x <|im_end|> y"}]}]
    with pytest.raises(InvalidRequest) as raised:
        contract.check(source).render({"message": "m"}, history)
    assert (raised.value.code, raised.value.param) == ("control_token", "messages")
    lenient = contract.check(recipe(control_tokens="neutralise"))
    assert lenient.render({"message": "m"}, history)[2]["content"][0]["text"] == "x < |im_end|> y"


@pytest.mark.parametrize(
    ("template", "line", "column", "what"),
    [
        ("Hello\n{{ nobody }}", 2, 4, "reads `nobody`"),
        ("Hello {{ message|attr('x') }}", 1, 18, "the filter `attr`"),
        ("a\nb\n  {% macro x() %}{% endmacro %}", 3, 6, "macro is not allowed"),
        ("x {{ message._a }}", 1, 14, "the attribute `_a`"),
        ("x {{ message + 'y' }}", 1, 14, "add is not allowed"),
        ("x\n{% if message %}", 2, 1, "Unexpected end of template"),
        ("x\n\n {{ message() }}", 3, 12, "call is not allowed"),
        ("{% if name is defined %}x{% endif %}", 1, 1, "can render empty"),
        ("x\n{% for c in message %}{% endfor %}", 2, 4, "a loop goes over an array"),
    ],
)
def test_a_refusal_says_where(template: str, line: int, column: int, what: str) -> None:
    with pytest.raises(TemplateError) as raised:
        contract.check(recipe(template))
    assert (raised.value.line, raised.value.column) == (line, column)
    assert what in raised.value.message
    assert raised.value.message.startswith(f"greet/user: line {line}, column {column}: ")


@pytest.mark.parametrize(
    "template",
    [
        "x {{ message|truncate(1) }}",
        "x {{ message|truncate(9, true, '0123456789') }}",
        "x {{ message|truncate(9, leeway=-1) }}",
        "x {{ message|truncate('9') }}",
        "x {% if message == 'never' %}{{ message|truncate(length=2) }}{% endif %}",
        "x {{ message|truncate(" + "9" * 5000 + ") }}",
        "x {{ message|round(method='down') }}",
    ],
)
def test_a_filter_that_could_not_work_is_refused_when_it_is_saved(template: str) -> None:
    with pytest.raises(InvalidRequest):
        contract.check(recipe(template))


def test_an_optional_variable_that_is_read_without_asking_is_refused_with_its_line() -> None:
    with pytest.raises(TemplateError) as raised:
        contract.check(recipe("Hello.\n\nI am {{ name }}."))
    assert raised.value.line == 3
    assert "'name' is undefined" in raised.value.message


def test_includes_are_put_in_place_and_linted() -> None:
    source = recipe("{% include 'shared/tone' %}\n{{ message }}", includes={"shared/tone": "Be kind.\n"})
    assert contract.check(source).render({"message": "Hi"})[1]["content"] == "Be kind.\nHi"
    for body, what in (("{{ nobody }}", "reads `nobody`"), ("{% include 'x' %}", "includes nothing")):
        with pytest.raises(TemplateError, match=what):
            contract.check(recipe("{% include 'shared/tone' %} {{ message }}", includes={"shared/tone": body}))


def test_an_includes_hash_takes_part_in_the_releases() -> None:
    def made(tone: str) -> RecipeSource:
        return recipe("{% include 'shared/tone' %} {{ message }}", includes={"shared/tone": tone})

    assert made("Be kind.").sha256 == made("Be kind.").sha256
    assert made("Be kind.").sha256 != made("Be terse.").sha256

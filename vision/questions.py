"""What a vision-language model may be asked about a face, and what of its answer may be passed on.

The words and the schema come with the request; this module holds none. It refuses a schema that asks for ethnicity,
health or the like, and an answer that tells of them. A schema is a plain list of features: no references, no patterns.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from core.errors import InvalidRequest
from core.service import from_validation

MAX_VALUE = 80  # characters
_PRIVATE_WORDS = (
    """
    race races racial ethnic ethnicity ethnicities nationality national origin ancestry heritage descent tribe
    caste skin complexion religion religious faith health healthy ill illness sick disease disorder disability
    disabled handicap medical
    """,
    """
    diagnosis symptom symptoms pregnant pregnancy obese obesity overweight underweight bmi acne rash syndrome
    autism autistic blind deaf injury injured addiction sexual sexuality politics political asian african
    caucasian hispanic latino latina
    """,
    """
    latinx arab arabic jewish muslim christian hindu buddhist sikh chinese japanese korean indian mexican
    european slavic nordic scandinavian turkish persian negro gypsy roma aboriginal indigenous mestizo mulatto
    biracial multiracial
    """,
)
_PRIVATE = frozenset(word for words in _PRIVATE_WORDS for word in words.split())
_COLOUR_OF_PEOPLE = re.compile(
    r"\b(?:black|white|brown|yellow|dark|light|fair|pale|tan|tanned|olive)[\s_-]+"
    r"(?:skinned|man|men|woman|women|person|people|male|female|guy|lady|boy|girl|child)\b"
)
_WORDS = re.compile(r"[a-z]+")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_VALUE)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Feature(_Closed):
    """One question: a choice, yes or no, or a short text."""

    type: Literal["string", "boolean"]
    enum: list[Text] | None = Field(None, min_length=1, max_length=40)
    minLength: int | None = Field(None, ge=0, le=MAX_VALUE)  # noqa: N815 - JSON Schema's name
    maxLength: int | None = Field(None, ge=1, le=MAX_VALUE)  # noqa: N815

    @model_validator(mode="after")
    def _bounded(self) -> "Feature":
        if self.type == "string" and self.enum is None and self.maxLength is None:
            raise ValueError("a text needs `enum` or `maxLength`")
        return self


class FeatureSchema(_Closed):
    """The JSON Schema of an answer: a flat object of features."""

    type: Literal["object"]
    properties: dict[Name, Feature] = Field(min_length=1, max_length=40)
    required: list[Name] = Field(default_factory=list, max_length=40)
    additionalProperties: Literal[False]  # noqa: N815


class Message(_Closed):
    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=20_000)  # text alone: an address in it is never followed


class Sampling(_Closed):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1, le=2048)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)


class _QuestionForm(_Closed):
    """The fields of a form, each decoded."""

    messages: list[Message] = Field(min_length=1, max_length=32)
    schema_: FeatureSchema = Field(alias="schema")
    sampling: Sampling = Field(default_factory=lambda: Sampling.model_validate({}))
    repair: str | None = Field(None, min_length=1, max_length=4000)

    @field_validator("messages")
    @classmethod
    def _asks(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role != "user":
            raise ValueError("the last message must be the user's: the picture goes with it")
        return messages


@dataclass(frozen=True)
class Question:
    """What to send to the model, exactly; `repair` is the user's turn after an answer that does not fit."""

    messages: list[dict[str, str]]
    schema: dict[str, Any]
    sampling: dict[str, Any] = field(default_factory=dict)
    repair: str | None = None


def read_question(form: Mapping[str, bytes | bytearray]) -> Question | None:
    """What a form asks a vision model; None where it asks nothing. Raises InvalidRequest."""
    texts = {name: bytes(form[name]) for name in ("messages", "schema", "sampling", "repair") if name in form}
    if not texts:
        return None
    repair = texts.pop("repair", None)
    decoded = {name: _json(name, text) for name, text in texts.items()}
    if repair is not None:
        decoded["repair"] = repair.decode("utf-8", "replace")
    try:
        sent = _QuestionForm.model_validate(decoded)
    except ValidationError as exc:
        raise from_validation(exc.errors()) from exc
    schema = sent.schema_.model_dump(exclude_none=True)
    private = next(filter(tells_private, _strings(schema["properties"])), None)
    if private is not None:
        raise InvalidRequest(
            f"schema: `{private[:40]}` may not be asked of a face.", param="schema", code="forbidden_feature"
        )
    messages = [message.model_dump() for message in sent.messages]
    return Question(messages, schema, sent.sampling.model_dump(exclude_none=True), sent.repair)


def check_answer(schema: Mapping[str, Any], text: str) -> tuple[dict[str, str | bool], list[str]]:
    """The features of an answer, or what is wrong with it: places and rules, never what was said there."""
    try:
        answer = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}, ["answer: not JSON"]
    wrong = [
        f"{'.'.join(map(str, error.instance_path)) or 'answer'}: {error.kind.name}"
        for error in jsonschema_rs.validator_for(dict(schema)).iter_errors(answer)
    ]
    if not wrong:
        wrong = [f"{name}: private" for name, value in answer.items() if tells_private(name) or tells_private(value)]
    return ({}, wrong[:20]) if wrong else (answer, [])


def tells_private(text: str | bool) -> bool:
    """Whether a name or a value tells of what must not be read from a face."""
    if not isinstance(text, str):
        return False
    plain = text.lower().replace("_", " ")
    return not _PRIVATE.isdisjoint(_WORDS.findall(plain)) or bool(_COLOUR_OF_PEOPLE.search(plain))


def _strings(properties: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    for name, feature in properties.items():
        yield name
        yield from feature.get("enum", ())


def _json(name: str, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{name}: not valid JSON.", param=name, code="json_invalid") from exc

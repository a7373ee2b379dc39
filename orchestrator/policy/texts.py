"""What a JSON value says to a model: every string of it, whether it holds a picture, and what in it nobody can read.

The whole value is walked. Left out are only what is known to be no text, and only in its known shape: the name of a
role, and the bytes of a picture or a sound under a name that stands for one.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

import re2

from core.control_tokens import encodable
from core.errors import InvalidRequest
from core.json.text import too_deep
from orchestrator.policy.floor import Subject

MAX_DEPTH = 100


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


ROLES = _names("system user assistant tool developer function")
NOT_SHOWN = _names("model user safety_identifier prompt_cache_key cache_salt request_id previous_response_id")
"""Names and ids at the top of a body: they choose a worker or a record, and no model is shown them."""
LONGEST_NAME = 512
_USUAL_NAMES = _names(
    "role type content text name parameters properties description function messages prompt input instructions tools"
    " model stream stream_options seed n temperature top_p max_tokens max_completion_tokens max_output_tokens size"
    " steps"
)
"""Names that every body is made of; they say nothing."""
_PICTURE_NAMES = _names(
    "image images image_url image_urls input_image image_file image_data image_pil image_base64 image_b64 b64_json"
    " init_image init_images reference_image reference_images input_reference control_image face_image mask mask_image"
    " photo picture screenshot video videos video_url input_video audio_url audio_data input_audio"
    " file files file_url file_data file_id input_file"
)
"""A picture, film, recording or file under these names may show somebody."""
_BY_ADDRESS = _names("image_url video_url audio_url")  # with `uuid` beside it, an engine remembers the rest
_PICTURE_TYPES = _names(
    "image image_url image_file image_pil input_image image_generation_call video video_url input_video audio audio_url"
    " input_audio computer_screenshot file input_file media"
)
_CONTENT_NAMES = _PICTURE_NAMES | {"url", "data", "result"}
"""Under these names stands what a picture or a file is made of."""
_TENSORS = _names("prompt_embeds image_embeds video_embeds audio_embeds input_embeds inputs_embeds")
_TEXT_NAMES = _names(
    "messages input instructions prompt negative_prompt suffix system content text previous_input_messages context"
    " refusal thinking reasoning reasoning_content"
)
"""Below these names a list of numbers is taken for token ids: an engine reads text out of it."""
_IDS = ("ids", "tokens", "embeds", "embeddings")
"""And wherever a name ends so."""
_NUMBER_LISTS = _names("stop_token_ids allowed_token_ids logprob_token_ids bytes")
"""But not here: they end or bound an answer, or repeat the token beside them."""
_SHOWN_AS_DIGITS = _names("tools functions documents arguments parameters schema json_schema variables")
"""Nor below these: there a number reaches a model as its digits."""
_OF_OWN_NAMES = _names("properties variables")
"""Of a schema, and of a recipe: what is directly below has names of its own, which stand for no pictures."""

_MEDIA = re.compile(r"data:\s*(?:image|video|audio)/", re.IGNORECASE)
_MEDIA_ANYWHERE = re2.compile(r"(?i)data:[\s\x{0b}\x{1c}-\x{1f}\x{85}\pZ]*(?:image|video|audio)/").search
_MEDIA_HEAD = re.compile(r"\s*data:(?:image|video|audio)/[\w.+-]+(?:;[\w.+=-]+)*,", re.IGNORECASE)
_MEDIA_DATA = re.compile(r"[A-Za-z0-9+/=_-]*")
MOST_ESCAPES = 20_000
"""%-escapes in the data: addresses of a body: 16 MiB of them take seconds to read."""
_SLICE = 1 << 20  # characters that one call of a pattern looks at: meanwhile nothing else runs, on no thread
_DATA = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{256,}={0,2}")
_BEGINS_AS_PICTURE = ("iVBORw0KGgo", "/9j/", "R0lGODlh", "R0lGODdh", "UklGR")
_MESSAGE = {"role", "content"}
_HOLDING = (str, dict, list, tuple)  # what may hold a text


@dataclass
class Texts:
    """`unread` names a field that holds no text and so cannot be checked (token ids, embeddings, a file)."""

    strings: list[str] = field(default_factory=list)
    pictured: bool = False
    unread: str | None = None
    escapes: int = 0  # in data: addresses
    beside: list[str] = field(default_factory=list)  # while it is walked: names and the like, which come after the rest

    def __add__(self, other: "Texts") -> "Texts":
        return Texts(self.strings + other.strings, self.pictured or other.pictured, self.unread or other.unread)

    @property
    def subject(self) -> Subject:
        """A picture sent along may show somebody: it makes the subject real."""
        return Subject(real=self.pictured)


def of(value: Any, name: str = "") -> Texts:
    """What a JSON value says that stands under this name. Raises InvalidRequest where it nests deeper than MAX_DEPTH:
    each level hands on all that is below it."""
    found = Texts()
    _see(found, value, name, 0, name in _TEXT_NAMES)
    # What messages and their parts say stands together, so that a word which is split over them can be put together.
    found.strings += found.beside
    found.beside = []
    return found


def of_body(body: Mapping[str, Any]) -> Texts:
    """What a request's body says, without the names and ids at its top."""
    plain = _of_plain_chat(body)
    return plain or of({name: value for name, value in body.items() if not _is_name(name, value)})


def _of_plain_chat(body: Mapping[str, Any]) -> Texts | None:
    """The same of messages of a role and a text, with nothing beside them that says anything: most bodies are so.
    None for any other."""
    found = Texts()
    for name, value in body.items():
        if name == "messages" and type(value) is list:
            for message in value:
                if type(message) is not dict or message.keys() != _MESSAGE or not all(map(_is_text, message.values())):
                    return None
                if message["role"] not in ROLES:
                    return None
                _see_text(found, message["content"], "content")
        elif not _is_name(name, value) and (name not in _USUAL_NAMES or isinstance(value, _HOLDING)):
            return None
    return found


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_name(name: str, value: Any) -> bool:
    return name in NOT_SHOWN and isinstance(value, str) and len(value) <= LONGEST_NAME


def shows_somebody(text: str) -> bool:
    """Whether a text holds a picture, film or recording as a data: address."""
    if text.isascii() and "data:" not in text.lower():
        return False
    return _MEDIA_ANYWHERE(encodable(text)) is not None


def _see(found: Texts, value: Any, name: str, depth: int, read: bool) -> None:
    """`read`: numbers in it are read as text."""
    if depth > MAX_DEPTH:
        raise too_deep()
    if isinstance(value, str):
        _see_text(found, value, name)
    elif isinstance(value, dict):
        _see_object(found, value, name, depth, read)
    elif isinstance(value, list | tuple):
        _see_list(found, value, name, depth, read)


def _see_list(found: Texts, value: Sequence[Any], name: str, depth: int, read: bool) -> None:
    numbers = False
    for inner in value:
        if isinstance(inner, _HOLDING):
            _see(found, inner, name, depth + 1, read)
        elif inner is not None:
            numbers = True
    if numbers and (read or name.endswith(_IDS)) and name not in _NUMBER_LISTS:
        found.unread = found.unread or name


def _see_object(found: Texts, value: dict[str, Any], name: str, depth: int, read: bool) -> None:
    if name not in _OF_OWN_NAMES:
        found.pictured = found.pictured or _is_picture(value)
    for inner_name, inner in value.items():
        if inner_name not in _USUAL_NAMES and inner_name not in _PICTURE_NAMES:
            found.beside.append(inner_name)
        if isinstance(inner, _HOLDING):
            below = (read or inner_name in _TEXT_NAMES) and inner_name not in _SHOWN_AS_DIGITS
            _see(found, inner, inner_name, depth + 1, below)
        if inner_name in _TENSORS and inner is not None:
            found.unread = found.unread or inner_name


def _is_picture(value: dict[str, Any]) -> bool:
    kind = value.get("type")
    if isinstance(kind, str) and kind in _PICTURE_TYPES:
        return True
    if _PICTURE_NAMES.isdisjoint(value):
        return False
    named = _PICTURE_NAMES.intersection(value)
    if any(value[name] and isinstance(value[name], str | dict | list) for name in named):
        return True
    return "uuid" in value and not named.isdisjoint(_BY_ADDRESS)


def _see_text(found: Texts, text: str, name: str) -> None:
    if name == "role" and text in ROLES:
        return
    if name in _CONTENT_NAMES and _see_file(found, text, name):
        return
    (found.strings if name in _TEXT_NAMES else found.beside).append(text)
    if shows_somebody(text) or (text.startswith(_BEGINS_AS_PICTURE) and _BASE64.match(text)):
        found.pictured = True


def _see_file(found: Texts, text: str, name: str) -> bool:
    """Whether it was the content of a picture or a file: then nothing is left in it to read as text."""
    if _is_media_alone(text):
        found.pictured = True
        return True
    if given := _DATA.match(text):
        quoted = text[given.end() :]
        found.escapes += quoted.count("%")
        if found.escapes > MOST_ESCAPES:
            found.unread = found.unread or name
            return False
        content = _content(given[1], quoted)
        if content is not None:
            found.strings.append(content)
        elif not _MEDIA.match(text.lstrip()):
            found.unread = found.unread or name
        return False
    if _BASE64.fullmatch(text):
        found.pictured = True
        found.unread = found.unread or (name if name == "file_data" else None)
        return True
    return False


def _is_media_alone(text: str) -> bool:
    head = _MEDIA_HEAD.match(text)
    if head is None:
        return False
    end = len(text.rstrip())
    return all(
        _MEDIA_DATA.fullmatch(text, at, min(at + _SLICE, end)) for at in range(head.end(), max(end, head.end()), _SLICE)
    )


def _content(kind: str, rest: str) -> str | None:
    """The text that a data: address holds; None where it holds none."""
    content = unquote_to_bytes(rest)
    try:
        if kind.lower().endswith(";base64"):
            content = base64.b64decode(content, validate=True)
        return content.decode()
    except (binascii.Error, ValueError):
        return None


def no_forged_turn(forged: str | None, param: str) -> None:
    """Raises InvalidRequest where a control token was found."""
    if forged:
        raise InvalidRequest(f"`{param}` holds the control token {forged!r}.", param=param, code="control_token")

"""The fast hash of messages is the one that the rfc8785 library gives, whatever the messages are."""

import hashlib
import json
import math
from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from core.json.canonical import messages_sha256, read_messages

_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_plain = st.lists(st.dictionaries(_text, _text, max_size=4), max_size=5)
_scalar = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False).filter(math.isfinite)
    | _text
)
_any = st.lists(st.dictionaries(_text, st.recursive(_scalar, lambda inner: st.lists(inner, max_size=3)), max_size=4))


@given(_plain | _any)
def test_both_ways_agree_with_the_library(messages: list[dict[str, Any]]) -> None:
    raw = json.dumps(messages).encode()
    wanted = hashlib.sha256(rfc8785.dumps(json.loads(raw))).hexdigest()
    assert messages_sha256(messages) == wanted
    assert read_messages(raw)[:2] == (messages, wanted)


def test_what_has_no_canonical_form_has_no_hash() -> None:
    assert messages_sha256([{"content": 2**60}]) is None
    assert messages_sha256([{"content": "\ud800"}]) is None

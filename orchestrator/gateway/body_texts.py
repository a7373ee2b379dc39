"""What a relayed body says, for the policy and for the proof: its texts, its pictures, its token ids, the hash of its
messages."""

from dataclasses import dataclass
from typing import Any

from core.control_tokens import COMMON, Tokens
from core.errors import InvalidRequest
from core.json.canonical import messages_sha256, responses_messages
from core.json.text import decoded, too_deep
from orchestrator.policy import texts
from orchestrator.policy.texts import Texts, no_forged_turn

MOST_IDS, MOST_PROMPTS = 1 << 17, 64  # token ids of one request, in all; prompts of ids
LARGEST_ID = 2**31 - 1
_TURNS = frozenset(("messages", "tools", "functions", "documents", "chat_template_kwargs", "previous_input_messages"))
"""What a chat template puts between a model's control tokens. A completion's prompt is the whole text for the model,
and the caller's own: it may hold them."""


@dataclass
class BodyTexts(Texts):
    """`prompt` is the text that constraints are added to; `ids` are prompts that a tokenizer has to decode."""

    messages_sha256: str | None = None
    prompt: str | None = None
    ids: tuple[list[int], ...] = ()


def read(body: bytes, tokens: Tokens = COMMON, *, responses: bool = False, completion: bool = False) -> BodyTexts:
    """Everything that a JSON body says. `responses`, `completion`: a body of that path. `tokens` are the asked model's
    control tokens.

    Raises InvalidRequest: `control_token` where a message would forge a turn, `json_too_deep`, `too_many_tokens`.
    """
    try:
        return _read(decoded(body), tokens, responses, completion)
    except RecursionError as exc:
        raise too_deep() from exc


def _read(whole: dict[str, Any], tokens: Tokens, responses: bool, completion: bool) -> BodyTexts:
    ids = _token_ids(whole.get("prompt")) if completion else ()
    found = texts.of_body({**whole, "prompt": None} if ids else whole)
    read_texts = BodyTexts(found.strings, found.pictured, found.unread, ids=ids)
    prompt = whole.get("prompt")
    if isinstance(prompt, str):
        read_texts.prompt = prompt
    elif completion and not ids and not _are_texts(prompt):
        read_texts.unread = "prompt"
    for name in _TURNS.intersection(whole):
        no_forged_turn(tokens.find(whole[name]), name)
    if responses and "input" in whole:
        messages = responses_messages(whole["input"], whole.get("instructions"))
        no_forged_turn(tokens.find(messages), "input")
        read_texts.messages_sha256 = messages_sha256(messages)
    elif "messages" in whole:
        read_texts.messages_sha256 = messages_sha256(whole["messages"])
    return read_texts


def _are_texts(prompt: Any) -> bool:
    return prompt is None or (isinstance(prompt, list) and all(isinstance(item, str) for item in prompt))


def _token_ids(prompt: Any) -> tuple[list[int], ...]:
    """Prompts that are given as token ids; none where the prompt is anything else. An engine takes 5.0 for 5, so do we.

    Raises InvalidRequest for more than can be decoded.
    """
    if not isinstance(prompt, list) or not prompt or _are_texts(prompt):
        return ()
    prompts = prompt if all(isinstance(one, list) for one in prompt) else [prompt]
    if len(prompts) > MOST_PROMPTS or sum(map(len, prompts)) > MOST_IDS:
        raise InvalidRequest(
            f"At most {MOST_PROMPTS} prompts of token ids, {MOST_IDS} ids in all.",
            param="prompt",
            code="too_many_tokens",
        )
    if not all(one and all(map(_is_id, one)) for one in prompts):
        return ()
    return tuple([int(item) for item in one] for one in prompts)


def _is_id(item: Any) -> bool:
    number = isinstance(item, int | float) and not isinstance(item, bool)
    return number and 0 <= item <= LARGEST_ID and item == int(item)

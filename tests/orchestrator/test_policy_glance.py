"""A short text is first looked at as a whole. That may save the scan, and never changes what is decided."""

import itertools
import random
import sys
from types import FrameType
from typing import Any

import pytest

from orchestrator.policy import decide as policy
from orchestrator.policy import floor, harmless, lexicon
from orchestrator.policy.decide import Rules, compile_rules, decide
from orchestrator.policy.floor import Subject
from orchestrator.policy.harmless import RISKY
from orchestrator.policy.pieces import pieces
from tests.orchestrator.age_cases import NEIGHBOURS, UNDER_EIGHTEEN
from tests.orchestrator.harmless import HARMLESS
from tests.orchestrator.policy_cases import CASES

RULES = compile_rules(
    "test@1",
    {
        "hard": [{"category": "test/hard", "terms": ["zzhard", "forbidden thing 9", "c++"]}],
        "soft": [{"category": "test/soft", "terms": ["zzsoft"]}],
    },
)
KNOWN = [*(case.text for case in CASES), *HARMLESS, *UNDER_EIGHTEEN, *NEIGHBOURS]
ORDINARY = (
    "You are a helpful assistant. Answer in one or two short sentences.",
    "Question 00001234: what is the capital of France, and since when has it been?",
)
_ENDS = (
    "",
    "",
    ".",
    ",",
    "!",
    "?",
    ":",
    "-",
    ")",
    '"',
    "*",
    " ",
    "\n",
    "'s",
    "I",
    "&#97;",
    "%61",
    "\\u0061",
    "\\n",
    "...",
    "é",
)


def _parts() -> list[str]:
    """Words and phrases that mean something, pieces of them, numbers, and what stands between them."""
    words = [word for group in lexicon._WORDS.values() for word in group.split()]
    phrases = [word for phrase, _ in lexicon.PHRASES for word in phrase.split()]
    ages = [word for phrase in (*UNDER_EIGHTEEN, *NEIGHBOURS) for word in phrase.split()]
    cut = [half for word in words if len(word) > 5 for half in (word[:3], word[3:])]
    leet = [word.replace("e", "3").replace("i", "1") for word in words]
    plain = "the a of and I i to in is it's he she they one two with well-known 5 16 2009 12345678 111 a.b.c"
    return [*words, *phrases, *ages, *cut, *leet, *(plain.split() * 40)]


def _made_up(rng: random.Random, parts: list[str]) -> list[str]:
    """A few texts of a few parts each; some words are written letter by letter, or in capitals."""
    texts = []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
        said = [rng.choice(parts) + rng.choice(_ENDS) for _ in range(rng.randint(1, 7))]
        said = [
            " ".join(word) if rng.random() < 0.04 else word.title() if rng.random() < 0.2 else word for word in said
        ]
        texts.append(" ".join(said))
    return texts


def _without_a_glance(monkeypatch: pytest.MonkeyPatch, texts: list[str], **asked: Any) -> policy.Decision:
    with monkeypatch.context() as patched:
        patched.setattr(policy, "GLANCE", -1)
        return decide(texts, **asked)


def _seen(texts: list[str]) -> bool:
    """Whether a glance says that they mean nothing risky; that is then true of every piece."""
    found = list(pieces(texts))
    if floor.glance([piece.text for piece in found], [part for piece in found for part in piece.parts]) is None:
        return False
    for piece in found:
        assert not floor.scan(*piece).flags & RISKY, texts
    return True


@pytest.mark.parametrize("seed", range(6))
def test_what_a_glance_lets_pass_means_nothing_risky_where_it_is_scanned(seed: int) -> None:
    rng, parts, seen = random.Random(seed), _parts(), 0
    for _ in range(1_500):
        seen += _seen(_made_up(rng, parts))
    assert seen >= 20  # else this would have tried nothing


def test_the_tables_are_decided_alike_with_a_glance_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    alone = [[text] for text in KNOWN]
    beside = [[rng.choice((*ORDINARY, *KNOWN)), text] for text in KNOWN]
    halves = [[text[:at], text[at:]] for text in KNOWN for at in [rng.randrange(len(text))]]
    for texts in itertools.chain(alone, beside, halves):
        _seen(texts)
        asked: dict[str, Any] = {
            "tier": rng.randrange(3),
            "surface": rng.choice(("text", "image")),
            "rules": rng.choice((RULES, Rules())),
            "subject": rng.choice((Subject(), Subject(real=True), Subject(age="ambiguous"), Subject(age="minor"))),
        }
        assert decide(texts, **asked) == _without_a_glance(monkeypatch, texts, **asked), (texts, asked)


def test_terms_of_a_policy_are_found_at_a_glance_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for term in ("zzhard", "a Forbidden  thing 9!", "in c++.", "zzh@rd", "z z h a r d"):
        for texts in ([term], [*ORDINARY, term], [*ORDINARY, term[:3], term[3:]]):
            asked: dict[str, Any] = {"tier": 0, "surface": "text", "rules": RULES}
            assert decide(texts, **asked) == _without_a_glance(monkeypatch, texts, **asked)
    assert decide([*ORDINARY, "zzhard"], tier=0, surface="text", rules=RULES).category == "test/hard"


def _calls(texts: tuple[str, ...]) -> int:
    counted = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        decide(texts, tier=1, surface="text", rules=Rules())
    finally:
        sys.setprofile(None)
    return counted


def test_an_ordinary_chat_takes_few_steps() -> None:
    """A scan of each of its pieces takes hundreds."""
    system, question = ORDINARY
    fruit = question.replace("00001234", "of 3 pears and 5 apples")
    decide((system, question, fruit), tier=1, surface="text", rules=Rules())  # whose words are known from then on
    assert _calls((system, question.replace("1234", "1235"))) <= 150
    assert _calls((system, fruit)) <= 150


def test_few_words_are_looked_into_at_once_and_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harmless, "_known", known := set[str]())
    monkeypatch.setattr(harmless, "MOST_CHUNKS", 100)
    text = " ".join(f"lorem{'abcdefghij'[at // 10]}{'klmnopqrst'[at % 10]}" for at in range(80))
    assert not harmless.is_harmless(text)
    assert len(known) == harmless.MOST_STRANGE
    assert not harmless.is_harmless(text)
    assert harmless.is_harmless(text)
    assert harmless.is_harmless("x" + "yz" * 50)
    assert len(known) == 80
    for at in range(300):
        harmless.is_harmless("word" + "".join("abcdefghij"[int(digit)] for digit in str(at)))
        assert len(known) <= 100

"""The scan takes steps in proportion to the text, in turns that are short, whatever the text."""

import ast
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import orchestrator
from bench.policy import shapes
from core import control_tokens
from core.control_tokens import Tokens
from orchestrator.pipelines.shortening import shorten
from orchestrator.policy import floor, texts
from orchestrator.policy import pieces as policy_pieces
from orchestrator.policy.decide import compile_rules, decide, deciding
from orchestrator.policy.pieces import PIECE, pieces
from orchestrator.runs.judge import in_turns
from tests.orchestrator.age_cases import NEIGHBOURS, UNDER_EIGHTEEN

RULES = compile_rules("test@1", {"hard": [{"category": "test/hard", "terms": ["zzhard", "a", "c++", "слово", "文字"]}]})
SHAPES = [name for name, _ in shapes(1)]
SMALL, LARGE = 8_000, 32_000


def _shape(name: str, length: int) -> str:
    return dict(shapes(length))[name]


def _calls(text: str) -> int:
    """How many functions are called to scan a text: ours, the standard library's and the engines'."""
    counted = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    floor._scan.cache_clear()
    sys.setprofile(count)
    try:
        found = floor.scan(text)
    finally:
        sys.setprofile(None)
    for terms in RULES.terms:
        terms.match(found.readings)
    return counted


@pytest.mark.parametrize("name", SHAPES)
def test_four_times_the_text_takes_four_times_the_steps(name: str) -> None:
    few, many = _calls(_shape(name, SMALL)), _calls(_shape(name, LARGE))
    assert many <= 5 * few + 200
    assert many <= 15 * LARGE


@pytest.mark.parametrize("name", SHAPES)
def test_what_the_engines_read_is_a_few_times_the_text(name: str) -> None:
    """Views of a text are of its own length, and few; asterisks alone make 25."""
    text = _shape(name, SMALL)
    views = [
        view
        for reading in floor.scan(text).readings
        for view in (reading.words, reading.words_and_digits, *reading.disguised, reading.runs)
    ]
    assert sum(map(len, views)) <= 60 * len(text)


@pytest.mark.parametrize("name", SHAPES)
def test_no_turn_has_more_than_a_piece(name: str) -> None:
    """The event loop is never held for longer than one piece takes, and every character is scanned."""
    text = _shape(name, 10 * PIECE)
    cut = list(pieces([text]))
    assert max(len(piece.text) for piece in cut) <= PIECE
    whole = list(policy_pieces._cut(text))
    assert "".join(whole) == text
    assert sum(1 for _ in deciding([text], tier=1, surface="text", rules=RULES)) >= 9


def test_many_tiny_texts_are_scanned_in_few_scans() -> None:
    tiny = [f"t{at}" for at in range(20_000)]
    cut = list(pieces(tiny))
    assert len(cut) < 200
    assert sum(len(piece.text) for piece in cut) < 20 * sum(map(len, tiny))


MEGABYTE_OF_SPACES = " " * 1_000_000


@pytest.mark.parametrize(
    "read",
    [
        lambda text: texts.shows_somebody("data:" + text),
        lambda text: texts.of({"content": "data:" + text}),
        lambda text: shorten("word " * 30 + text + "word"),
        lambda text: Tokens(("<|end|>", "   ."), common=True).find_in_text("<" + text),
        lambda text: decide(["age" + text + "x"], tier=1, surface="text", rules=RULES),
    ],
    ids=["shows_somebody", "texts", "shortened", "control tokens", "policy"],
)
def test_what_reads_callers_texts_comes_to_an_end(read: Callable[[str], object]) -> None:
    """A pattern that backtracks would be busy with a megabyte of spaces for hours."""
    read(MEGABYTE_OF_SPACES)


def test_control_tokens_of_a_large_vocabulary_are_found_by_engines_that_cannot_backtrack() -> None:
    tokens = Tokens([f"<|reserved_{at}|>" for at in range(300)], common=True)
    text = "<|" * 100_000 + "<|reserved_7|> and <|im_end|>"
    assert tokens.find_in_text(text) == "<|reserved_7|>"
    assert tokens.find_all("<|reserved_17|> <s>") == ["<|reserved_17|>", "<s>"]
    apart = tokens.neutralised(text)
    assert tokens.find_in_text(apart) is None
    assert "import re\n" not in Path(str(control_tokens.__file__)).read_text()


def test_a_word_split_over_parts_is_put_together_whatever_stands_beside_them() -> None:
    parts = [{"type": "text", "text": "zzexpl", "made_up": "a b"}, {"type": "text", "text": "icit", "name": "c"}]
    body = {"messages": [{"role": "user", "name": "d", "content": parts}]}
    found = texts.of_body(body)
    assert decide(found.strings, tier=1, surface="text", rules=RULES).category == "sexual/explicit"


@pytest.mark.parametrize("name", ["refusal", "thinking", "reasoning", "reasoning_content"])
def test_a_word_split_over_parts_of_several_types_is_put_together(name: str) -> None:
    parts = [{"type": "text", "text": "zzexpl"}, {"type": name, name: "icit"}]
    found = texts.of_body({"messages": [{"role": "user", "content": parts}]})
    assert decide(found.strings, tier=1, surface="text", rules=RULES).category == "sexual/explicit"


async def test_others_have_their_turn_while_a_large_text_is_scanned() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    text = "plain words " * 50_000 + " zzhard"
    found = await in_turns(deciding([text], tier=1, surface="text", rules=RULES))
    task.cancel()
    assert found.category == "test/hard"
    assert turns >= len(text) / PIECE - 1


def test_nothing_that_judges_uses_an_engine_that_can_backtrack() -> None:
    for path in Path(str(orchestrator.__file__)).parent.glob("policy*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not names & {"re", "regex"}, path.name


def _at_tier_2(said: list[str]) -> str:
    return decide(said, tier=2, surface="image", rules=compile_rules("none", {})).action


def test_the_tables_of_ages_are_long_enough() -> None:
    assert len(set(UNDER_EIGHTEEN)) >= 120
    assert len(set(NEIGHBOURS)) >= 120
    assert not set(UNDER_EIGHTEEN) & set(NEIGHBOURS)


def test_every_way_to_say_under_eighteen_is_refused_above_tier_0() -> None:
    for template in ("{}, zznudity", "zznudity, {}", "a portrait: {}. zznudity"):
        missed = [phrase for phrase in UNDER_EIGHTEEN if _at_tier_2([template.format(phrase)]) != "refuse"]
        assert not missed, f"{template!r}: {len(missed) / len(UNDER_EIGHTEEN):.1%} missed: {missed}"
    assert not [phrase for phrase in UNDER_EIGHTEEN if _at_tier_2(["zznudity.", phrase]) != "refuse"]


def test_no_harmless_neighbour_is_taken_for_a_minors_age() -> None:
    for template in ("{}, zznudity", "zznudity, {}"):
        wrong = [phrase for phrase in NEIGHBOURS if _at_tier_2([template.format(phrase)]) != "allow"]
        assert not wrong, f"{template!r}: {len(wrong) / len(NEIGHBOURS):.1%} false alarms: {wrong}"
    assert not [phrase for phrase in NEIGHBOURS if _at_tier_2([phrase, "zznudity"]) != "allow"]


@pytest.mark.parametrize(
    "said",
    [
        ["zzexpl", "icit"],
        ["a zzexpl", "icit picture"],
        ["z", "z", "e", "x", "p", "l", "i", "c", "i", "t"],
        ["text", "zzexpl", "text", "icit"],
        ["x" * 300 + " zzexpl", "icit " + "y" * 300],
        ["word " * 100 + "zzexpl", "icit", "word " * 100],
        ["word " * 40_000 + "zzexpl", "icit " + "word " * 40_000],
        ["zzexpI", "icit"],
        ["zz", "", "explicit"],
        *([*["filler text"] * many, "zzexpl", "icit", *["more of it"] * many] for many in (10, 100, 5_000)),
        ["ꓜꓜꓰꓫ", "plicit"],
        ["hello", "zz", "expl", "icit", "there"],
        [*["hello"] * 100, "zz", "ex", "pl", "icit", *["there"] * 100],
    ],
    ids=lambda said: f"{len(said)}-{said[0][:12].encode('ascii', 'replace')!r}",
)
def test_a_word_that_is_split_over_texts_is_put_together(said: list[str]) -> None:
    found = decide(said, tier=1, surface="text", rules=RULES)
    assert found.category == "sexual/explicit"


@pytest.mark.parametrize(
    "said",
    [
        ["she is", "16 years old"],
        ["16 ye", "ars old"],
        ["she is sixt", "een years old"],
        ["aged", "16."],
        ["a litt", "le girl"],
    ],
    ids=str,
)
def test_an_age_that_is_split_over_texts_is_put_together(said: list[str]) -> None:
    assert _at_tier_2(["zznudity.", *said]) == "refuse"


@pytest.mark.parametrize(
    "said",
    [
        ["Is the se", "xtant old?"],
        ["below 10 degrees", "a nice day"],
        ["How tall is the k", "idney?"],
        ["seen with the naked eye. " * 4_000],
        ["the quick brown fox " * 4_000 + "naked eye"],
    ],
    ids=lambda said: said[0][:20],
)
def test_what_is_harmless_together_is_harmless_split(said: list[str]) -> None:
    assert decide(said, tier=0, surface="image", rules=compile_rules("none", {})).action == "allow"


def test_a_term_of_a_policy_is_found_split_and_disguised_and_only_as_a_word() -> None:
    rules = compile_rules("t", {"hard": [{"category": "brand", "terms": ["acmeli", "c++", "слово", "文字", "lon"]}]})

    def found(*said: str) -> str | None:
        return decide(said, tier=0, surface="text", rules=rules).category

    for text in (
        "acmeli",
        "ACMELI!",
        "a.c.m.e.l.i",
        "acmeIi",
        "ac\u200bmeli",
        "4cm3li",
        "acmeli画像",
        "use c++ now",
        "это слово.",
    ):
        assert found(text) == "brand", text
    assert found("ac", "meli") == "brand"
    assert found("这是文字吗") == "brand"
    for text in ("acmelix", "ion", "cc++", "c+"):
        assert found(text) is None, text

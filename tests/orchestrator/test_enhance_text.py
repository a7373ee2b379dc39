"""Compression, tokens and score: pure, so tables and properties."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.legacy.enhance import job_types
from orchestrator.legacy.enhance.compress import compress
from orchestrator.legacy.enhance.enhancer import clean
from orchestrator.legacy.enhance.phrases import Kind, content_words, kind_of, phrases, tidy
from orchestrator.legacy.enhance.score import CHECKS, score
from orchestrator.legacy.enhance.tokens import Counters, estimate

KINDS = job_types.read()
CLIP = Counters(None).of("sdxl")

LONG = (
    "masterpiece, best quality, a white lighthouse with a red lantern room, weathered stone and peeling paint, "
    "standing on a rocky cliff above a restless sea, soft key light from the left, cool rim light, volumetric haze, "
    "medium format camera, 80mm lens, f/8, deep focus, 8k resolution, fine film grain, teal and amber palette, "
    "fine art landscape photography, oil painting style, vintage mood"
)


def test_clip_counts_as_clip_does() -> None:
    """Ids that are published with the model: 320 is `a`, 2368 is `cat`."""
    from orchestrator.legacy.enhance.tokens import clip

    assert clip().encode("A photo of a CAT", add_special_tokens=False).ids == [320, 1125, 539, 320, 2368]
    assert (CLIP(""), CLIP("a  photo\n of a cat"), CLIP("lighthouse, 8k")) == (0, 5, 4)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("cat", 1), ("lighthouse", 3), ("a cat, 24mm", 6), ("東京", 2), ("x" * 9, 3)]
)
def test_the_estimate_errs_on_the_high_side(text: str, tokens: int) -> None:
    assert estimate(text) == tokens


PHRASES = {
    "masterpiece": Kind.QUALITY,
    "best quality": Kind.QUALITY,
    "a white lighthouse on a cliff": Kind.SUBJECT,
    "a girl with a lamp in the rain at night by the old harbour wall": Kind.SUBJECT,
    "soft key light": Kind.LIGHTING,
    "golden hour": Kind.LIGHTING,
    "80mm lens": Kind.TECHNICAL,
    "8k resolution": Kind.TECHNICAL,
    "oil painting style": Kind.STYLE,
    "teal and amber palette": Kind.STYLE,
}


@pytest.mark.parametrize(("phrase", "kind"), PHRASES.items())
def test_what_a_phrase_is_about(phrase: str, kind: Kind) -> None:
    assert kind_of(phrase) is kind


def test_what_matters_most_is_kept_longest() -> None:
    """From room for all down to room for nothing but the subject."""
    gone: list[str] = []
    before = phrases(LONG)
    for target in range(CLIP(LONG), 8, -1):
        now = phrases(compress(LONG, target, CLIP))
        gone += [p for p in before if p.strip(",") not in {n.strip(",") for n in now} and p not in gone]
        before = now if len(now) < len(before) else before
    last = compress(LONG, 20, CLIP)
    assert last.startswith("masterpiece, best quality")
    assert "a white lighthouse" in last
    assert "style" not in last
    first = [kind_of(phrase) for phrase in gone[:2]]
    assert set(first) <= {Kind.STYLE, Kind.TECHNICAL}, gone


def test_what_fits_is_left_alone() -> None:
    assert compress(LONG, 500, CLIP) == LONG
    assert compress("  a cat ,\n", 75, CLIP) == "a cat"


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
tags = st.sampled_from([part.strip(", ") for part in phrases(LONG)])
texts = st.lists(st.one_of(tags, words), min_size=1, max_size=25).map(", ".join)


@given(texts, st.integers(1, 60))
@example("masterpiece, 00000, masterpiece", 4)
@example("0000, a white lighthouse with a red lantern room", 3)
def test_a_compressed_prompt_fits_cuts_no_word_and_stays_as_it_is(text: str, target: int) -> None:
    made = compress(text, target, CLIP)
    assert CLIP(made) <= target
    assert compress(made, target, CLIP) == made
    left = iter(tidy(text).split())
    for word in made.split():
        assert any(word.strip(" ,;.!?") == other.strip(" ,;.!?") for other in left), (word, made)
    if any(CLIP(tidy(word)) <= target for word in tidy(text).split() if tidy(word)):
        assert made or not phrases(tidy(text)) or CLIP(tidy(text)) == 0 or target < 3


@given(st.lists(tags, max_size=25), st.integers(0, 25), st.integers(8, 60))
def test_the_subject_is_never_lost(parts: list[str], place: int, target: int) -> None:
    """Wherever it stands, however little room there is; here it even sounds like light."""
    text = ", ".join([*parts[:place], "a small neon boat", *parts[place:]])
    made = compress(text, target, CLIP, frozenset({"boat", "neon"}))
    assert "a small neon boat" in made
    assert compress(made, target, CLIP, frozenset({"boat", "neon"})) == made


@given(texts, st.integers(1, 60))
def test_sentences_by_the_estimate_too(text: str, target: int) -> None:
    made = compress(text.replace(", ", ". "), target, estimate)
    assert estimate(made) <= target
    assert compress(made, target, estimate) == made


GOOD = {
    "sdxl_image_fast": "masterpiece, best quality, a lighthouse on a rocky cliff, waves below, golden hour light, "
    "24mm lens, sharp focus, 8k, landscape photography, gulls over the water, wide open sky, soft clouds",
    "video_high": "A cat on a wall jumps down and walks through wet grass, fur swaying. The camera tracks beside it "
    "with a 50mm lens and ends in a slow push. The motion is continuous, the light consistent from the first frame to "
    "the last. High quality, rich detail, morning mist over the garden, soft light from the left, dew on every leaf, "
    "while a breeze moves the branches behind and the cat stops, looks up at a bird, then walks on along the path.",
    "chat_enhance": "Are you coming to the lighthouse tomorrow?",
}
ORIGINAL = {"sdxl_image_fast": "a lighthouse", "video_high": "a cat on a wall", "chat_enhance": "coming lighthouse?"}
BAD = {"empty": "", "another thing": "xyz", "stuck": "the the the the the the the the the the"}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_prompt_scores_high_and_bad_ones_low(name: str) -> None:
    job = KINDS[name]
    count = Counters(None).of(job.family)

    def points(text: str, tokens: int | None = None) -> float:
        counted = count(text) if tokens is None else tokens
        return score(ORIGINAL[name], text, job, tokens=counted)

    good = points(GOOD[name])
    assert good > 0.8
    assert all(points(bad) < min(good, 0.5) for bad in BAD.values()), {b: points(t) for b, t in BAD.items()}
    assert points("") == 0.0
    if job.target:
        assert points(GOOD[name], 3 * job.target) < good, "too long is worse"
        assert points(ORIGINAL[name]) < good, "what was asked for is not yet enhanced"


@given(texts, st.integers(0, 500), st.sampled_from(sorted(KINDS)))
def test_a_score_is_between_0_and_1(text: str, tokens: int, name: str) -> None:
    job = KINDS[name]
    found = score(text, text, job, tokens=tokens)
    assert 0.0 <= found <= 1.0


def test_the_job_types_are_those_of_the_contract() -> None:
    assert list(KINDS) == [
        *("sdxl_image_fast", "sdxl_image_high", "video_fast", "video_high", "wan_7b_enhanced"),
        *("chat_enhance", "chat_conversation", "chat_unrestricted", "admin_utilities"),
    ]
    assert {name: kind.target for name, kind in KINDS.items() if kind.target} == {
        "sdxl_image_fast": 75,
        "sdxl_image_high": 120,
        "video_fast": 175,
        "video_high": 250,
        "wan_7b_enhanced": 250,
    }
    assert {check for kind in KINDS.values() for check in kind.checks} == set(CHECKS)


SAID = {
    "Sure! Here is the enhanced prompt: a red boat": "a red boat",
    'Prompt: "a red boat"': "a red boat",
    "  a  red\nboat, ": "a red boat",
    "“a red boat”": "a red boat",
    'a boat called "Here"': 'a boat called "Here"',
    "Sure": "",
}


@pytest.mark.parametrize(("text", "wanted"), [pair for pair in SAID.items() if pair[1]])
def test_what_a_model_says_around_a_prompt_is_left_out(text: str, wanted: str) -> None:
    assert clean(text) == wanted


def test_words_of_content() -> None:
    assert list(content_words("Show me a red BOAT, and the sea!")) == ["red", "boat", "sea"]

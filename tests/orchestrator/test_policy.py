"""The policy as a table, the minimum rule as a property, and what must not be refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from orchestrator.policy import decide as policy
from orchestrator.policy import floor
from orchestrator.policy.decide import compile_rules, decide, tier_in_force
from orchestrator.policy.floor import Subject
from tests.orchestrator.harmless import HARMLESS
from tests.orchestrator.policy_cases import CASES, STEPS, Case, Step

RULES = compile_rules(
    "test@1",
    {
        "hard": [
            {"category": "test/hard", "terms": ["zzhard"]},
            {"category": "test/phrase", "terms": ["forbidden thing 9"]},
            {"category": "test/low", "terms": ["zzhardlow"], "tiers": [0, 1]},
        ],
        "soft": [{"category": "test/soft", "terms": ["zzsoft"]}],
        "constraints": "Everyone is fully clothed.",
    },
)


def test_the_table_is_long_enough() -> None:
    assert len(set(CASES)) >= 150
    assert len(set(HARMLESS)) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.tier}-{case.text[:40].encode('ascii', 'replace')!r}")
def test_case(case: Case) -> None:
    found = decide([case.text], tier=case.tier, surface=case.surface, rules=RULES, subject=case.subject)
    assert (found.action, found.category) == (case.expect, case.category)
    assert found.constraints == (
        "Everyone is fully clothed." if case.expect == "soft" and case.surface == "image" else ""
    )


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.tier}-{step.said} / {step.expanded}")
def test_step(step: Step) -> None:
    """What a pipeline asks: before the expansion, and of what the expansion made of it."""

    def judged(*texts: str) -> policy.Decision:
        return decide(texts, tier=step.tier, surface="image", rules=RULES, subject=step.subject)

    assert judged(step.said).action == step.first
    found = judged(step.said, step.expanded)
    assert (found.action, found.category) == (step.second, step.category)


def test_at_most_two_of_the_harmless_prompts_are_refused() -> None:
    refused = [
        (text, surface)
        for text in HARMLESS
        for surface in ("text", "image")
        for found in [decide([text], tier=0, surface=surface, rules=RULES)]
        if found.action == "refuse"
    ]
    assert len({text for text, _ in refused}) <= 2, refused


_limit = st.none() | st.integers(0, 2)


@given(st.lists(_limit, max_size=6))
def test_the_tier_in_force_is_the_minimum(limits: list[int | None]) -> None:
    found = tier_in_force(*limits)
    known = [limit for limit in limits if limit is not None]
    assert found == (min(known) if known else 0)


@given(st.integers(0, 2), _limit, _limit, _limit, _limit)
def test_a_request_can_lower_the_tier_and_never_raise_it(
    asked: int, recipe: int | None, tenant: int | None, key: int | None, subject: int | None
) -> None:
    without = tier_in_force(recipe, tenant, key, subject, 2)
    assert tier_in_force(recipe, tenant, key, subject, 2, asked) == min(without, asked)


@given(st.sampled_from(CASES), st.integers(0, 2))
def test_a_real_subject_is_always_at_tier_0(case: Case, tier: int) -> None:
    found = decide([case.text], tier=tier, surface="image", rules=RULES, subject=Subject(real=True))
    assert found.tier == 0


@given(st.sampled_from(CASES), st.integers(0, 1))
def test_a_lower_tier_never_allows_what_a_higher_one_refuses_by_the_lists(case: Case, tier: int) -> None:
    """Save for ambiguous age, which is refused above tier 0 and softened at it."""
    order = ("allow", "soft", "refuse")
    low = decide([case.text], tier=tier, surface="image", rules=RULES)
    high = decide([case.text], tier=tier + 1, surface="image", rules=RULES)
    if high.category not in ("sexual/ambiguous_age", "sexual/minors"):
        assert order.index(low.action) >= order.index(high.action)


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    decide([text], tier=1, surface="text", rules=RULES)


def test_what_is_split_over_messages_is_read_together() -> None:
    parts = ["The person is 12 years old.", "What a nice day.", "Now a zzsuggestive picture."]
    found = decide(parts, tier=2, surface="text", rules=RULES)
    assert found.category == "sexual/minors"


def test_at_tier_2_nothing_is_softened_by_any_policy() -> None:
    with pytest.raises(InvalidRequest, match="soft rule"):
        compile_rules("bad@1", {"soft": [{"category": "x", "terms": ["y"], "tiers": [2]}]})


@pytest.mark.parametrize(
    "document",
    [
        {"unknown": 1},
        {"hard": "zz"},
        {"hard": [{"terms": ["x"]}]},
        {"hard": [{"category": "x", "terms": [1]}]},
        {"hard": [{"category": "x", "terms": [" "]}]},
        {"hard": [{"category": "x", "terms": ["y"], "tiers": [3]}]},
        {"hard": [{"category": "x", "terms": ["y" * 201]}]},
        {"hard": [{"category": "x", "terms": ["\u200b"]}]},
        {"hard": [{"category": "x", "terms": ["y"], "tiers": ["1"]}]},
        {"hard": [{"category": "x", "terms": ["y"], "tiers": [[1]]}]},
        {"hard": [{"category": "x", "terms": []}] * 101},
        {"hard": [{"category": "x", "terms": [f"y{at}" for at in range(10_001)]}] * 2},
        {"hard": [{"category": "x", "terms": ["%" * at for at in range(1, 100)]}]},
        {"constraints": 1},
        {"constraints": "x" * 2001},
    ],
)
def test_a_policy_document_that_is_wrong_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        compile_rules("bad@1", document)
    assert raised.value.code == "invalid_policy"


def test_a_tenants_policy_adds_to_the_global_one() -> None:
    both = RULES + compile_rules("tenant@3", {"hard": [{"category": "tenant", "terms": ["zztenant"]}]})
    assert both.name == "test@1+tenant@3"
    for text, category in (("zzhard", "test/hard"), ("zztenant", "tenant")):
        assert decide([text], tier=2, surface="text", rules=both).category == category


def test_a_decision_echoes_nothing() -> None:
    found = decide(["zzexplicit secret-of-the-caller"], tier=1, surface="text", rules=RULES)
    assert "zzexplicit" not in str(found)
    assert "secret" not in str(found)


def test_the_floor_has_a_version_hash() -> None:
    assert len(floor.version()) == 16
    assert int(floor.version(), 16)


def test_no_policy_document_removes_the_floor() -> None:
    empty = policy.compile_rules("empty@1", {})
    assert decide(["a child, zznudity"], tier=2, surface="image", rules=empty).action == "refuse"

"""The planner: machines that people rent, pins, and what holds of every plan."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.operate.plan import wishes
from placement.cards import LARGEST, Card, CardError, cards_of
from placement.layout import PlanError, Wish
from placement.plan import Engine, Plan, pinned, plan
from placement.sizes import SizesError, read, shipped
from placement.start import as_json, expectation, flags, table

SIZES = shipped()


def planned(gpus: Sequence[str], models: str) -> Plan:
    return plan([card for gpu in gpus for card in cards_of(gpu)], [Wish(SIZES[name]) for name in models.split()])


def lines(found: Plan) -> list[tuple[str, str, int, tuple[str, ...]]]:
    return [(e.model.name, e.variant.name, e.card, e.turns_with) for e in found.engines]


MACHINES = [
    (["12GB"], "chat", [("chat", "fp8", 0, ())], {}),
    (
        ["12GB"],
        "chat zimage base",
        [("zimage", "fp8-encoder-nf4", 0, ("chat",)), ("chat", "fp8", 0, ("zimage",))],
        {"base"},
    ),
    (
        ["16GB"],
        "chat zimage",
        [("zimage", "fp8-encoder-nf4", 0, ("chat",)), ("chat", "fp8", 0, ("zimage",))],
        {},
    ),
    (["24GB"], "chat", [("chat", "bf16", 0, ())], {}),
    (["24GB"], "chat zimage", [("chat", "fp8", 0, ()), ("zimage", "fp8-encoder-nf4", 0, ())], {}),
    (
        ["24GB"],
        "chat zimage base",
        [("base", "fp8", 0, ("chat",)), ("chat", "fp8", 0, ("base",)), ("zimage", "fp8-encoder-nf4", 0, ())],
        {},
    ),
    (
        ["2x24GB"],
        "chat zimage base",
        [("zimage", "bf16", 0, ()), ("chat", "fp8", 1, ()), ("base", "fp8", 1, ())],
        {},
    ),
    (
        ["48GB"],
        "chat zimage base",
        [("chat", "bf16", 0, ()), ("zimage", "bf16-encoder-nf4", 0, ()), ("base", "fp8", 0, ())],
        {},
    ),
    (
        ["48GB"],
        "chat base vl-7b",
        [("chat", "bf16", 0, ()), ("base", "fp8", 0, ()), ("vl-7b", "bf16", 0, ())],
        {},
    ),
    (
        ["2x48GB"],
        "chat zimage base vl-7b",
        [("zimage", "bf16", 0, ()), ("base", "bf16", 0, ()), ("chat", "bf16", 1, ()), ("vl-7b", "bf16", 1, ())],
        {},
    ),
    (["80GB"], "chat zimage base", [("chat", "bf16", 0, ()), ("zimage", "bf16", 0, ()), ("base", "bf16", 0, ())], {}),
    (
        ["141GB"],
        "chat zimage base vl-7b sdxl",
        [(name, "fp16" if name == "sdxl" else "bf16", 0, ()) for name in ["chat", "zimage", "base", "vl-7b", "sdxl"]],
        {},
    ),
]


@pytest.mark.parametrize(("gpus", "models", "expected", "out"), MACHINES, ids=lambda value: str(value)[:30])
def test_machines_that_people_rent(gpus: list[str], models: str, expected: list[object], out: set[str]) -> None:
    found = planned(gpus, models)
    assert lines(found) == expected
    assert set(found.left_out) == set(out)


def test_eight_cards_have_each_model_once_and_pictures_and_chat_again() -> None:
    found = planned(["8x80GB"], "chat zimage base vl-7b sdxl wan-1b")
    assert sorted(e.model.name for e in found.engines) == sorted(
        ["chat", "zimage", "base", "vl-7b", "sdxl", "wan-1b", "chat", "zimage"]
    )
    assert sorted(e.card for e in found.engines) == list(range(8))
    assert not any(e.turns_with for e in found.engines)


def test_what_others_hold_of_a_card_is_not_given_away() -> None:
    free, held = planned(["48GB"], "chat zimage"), planned(["48GB-20"], "chat zimage")
    assert sum(e.size for e in held.engines) <= 48 - 20
    assert {e.variant.name for e in free.engines} == {"bf16"}
    assert {e.variant.name for e in held.engines} != {"bf16"}


def test_a_pin_is_never_changed() -> None:
    sizes = {name: SIZES[name] for name in ("chat", "zimage", "base")}
    asked = wishes("chat,zimage,base", ["chat:card=1,dtype=bf16,kv=2.5", "base:dtype=fp8"], sizes)
    found = plan(cards_of("2x24GB"), asked)
    chat = next(e for e in found.engines if e.model.name == "chat")
    assert (chat.card, chat.variant.name) == (1, "bf16")
    assert "2684354560" in flags(chat, found.cards[1])  # 2.5 GiB of cache
    assert next(e for e in found.engines if e.model.name == "base").variant.name == "fp8"


@pytest.mark.parametrize(
    ("pin", "why"),
    [
        ("chat:card=2", "pinned to card 2"),
        ("chat:dtype=int3", "no dtype int3"),
        ("chat:kv=lots", "could not convert"),
        ("chat:kv=nan", "0.1 to 192"),
        ("chat:kv=-1", "0.1 to 192"),
        ("chat:colour=red", "knows no colour"),
        ("zimage:kv=2", "cache of a vLLM engine"),
        ("chat", "MODEL:KEY=VALUE"),
        ("chess:kv=2", "MODEL:KEY=VALUE"),
    ],
)
def test_a_pin_that_means_nothing_is_told(pin: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        plan(cards_of("2x24GB"), wishes("chat,zimage", [pin], SIZES))


@pytest.mark.parametrize("given", ["", "quantum", "9x24GB", "24GB-24", "0GB", "500GB", "-3GB", "24GB-x"])
def test_a_card_that_is_none_is_told(given: str) -> None:
    with pytest.raises(CardError):
        cards_of(given)


@pytest.mark.parametrize(
    "text", ["", "models = 3", "[models.a]\ntitle='a'", "\x00", "[models.a.variants]\nb={weights=1}"]
)
def test_a_table_that_is_none_is_told(text: str) -> None:
    with pytest.raises(SizesError):
        read(text)


def test_an_engine_is_started_with_exact_bytes_and_a_gate() -> None:
    found = planned(["24GB"], "chat zimage")
    chat = found.engines[0]
    words = flags(chat, found.cards[0])
    given = dict(zip(words[::2], words[1::2], strict=False))
    assert int(given["--kv-cache-memory-bytes"]) <= chat.work * (1 << 30)
    assert float(given["--gpu-memory-utilization"]) * 24 <= chat.size
    assert given["--quantization"] == "fp8_per_channel"
    assert "--kv-cache-dtype" not in words  # 8-bit caches ruin these models
    assert int(given["--max-model-len"]) == expectation(chat).context == 16384


CARDS = st.lists(
    st.builds(
        lambda total, part: Card("card", total, round(total * part, 2)),
        st.floats(12, LARGEST).map(lambda size: round(size, 1)),
        st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.9]),
    ),
    min_size=1,
    max_size=8,
)
MODELS = st.permutations(sorted(SIZES)).flatmap(lambda names: st.integers(1, len(names)).map(lambda n: names[:n]))


def held_before(engine: Engine, started: Sequence[Engine]) -> float:
    """What is on the card when an engine starts: who takes turns with it sleeps; of others, the largest is awake."""
    rivals = [e for e in started if e.model.name in engine.turns_with]
    places: dict[frozenset[str], list[Engine]] = {}
    for one in started:
        if one not in rivals:
            places.setdefault(frozenset((one.model.name, *one.turns_with)), []).append(one)
    at_most = (max(e.size + sum(o.model.asleep for o in all_ if o is not e) for e in all_) for all_ in places.values())
    return sum(e.model.asleep for e in rivals) + sum(at_most)


@given(CARDS, MODELS)
def test_no_plan_is_over_a_card_and_every_one_can_start_in_its_order(cards: list[Card], names: list[str]) -> None:
    found = plan(cards, [Wish(SIZES[name]) for name in names])
    assert {e.model.name for e in found.engines} | set(found.left_out) == set(names)
    assert not {e.model.name for e in found.engines} & set(found.left_out)
    for at, card in enumerate(cards):
        started: list[Engine] = []
        for number, engine in enumerate(found.on(at), 1):
            assert engine.order == number
            assert engine.work > 0
            assert engine.size <= card.total - card.taken - held_before(engine, started) + 1e-6
            started.append(engine)
    assert json.loads(json.dumps(as_json(found)))["engines"] == as_json(found)["engines"]
    assert table(found)


@given(CARDS, MODELS, st.data())
def test_pins_hold_in_every_plan(cards: list[Card], names: list[str], data: st.DataObject) -> None:
    asked = [Wish(SIZES[name]) for name in names]
    at = data.draw(st.integers(0, len(names) - 1))
    dtype = data.draw(st.sampled_from([v.name for v in asked[at].model.variants]))
    card = data.draw(st.integers(0, len(cards) - 1))
    asked[at] = pinned(asked[at], {"dtype": dtype, "card": str(card)})
    for engine in plan(cards, asked).engines:
        if engine.model.name == names[at]:
            assert (engine.variant.name, engine.card) == (dtype, card)


def test_the_command_prints_the_plan_of_any_machine() -> None:
    command = (sys.executable, "-m", "orchestrator", "plan", "--gpu", "4090", "--gpu", "24GB-2")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "card 1: a card (24 GiB, 2 taken by others)" in done.stdout
    found = json.loads(subprocess.run((*command, "--json"), capture_output=True, text=True, check=True).stdout)
    assert {engine["model"] for engine in found["engines"]} == {"chat", "zimage", "base"}
    refused = subprocess.run((*command, "--models", "chess"), capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "There is no model chess" in refused.stderr


@pytest.mark.parametrize("arguments", [("--models", ","), ("--sizes", sys.executable), ("--sizes", "/nowhere")])
def test_what_cannot_be_understood_is_one_sentence(arguments: tuple[str, ...]) -> None:
    command = (sys.executable, "-m", "orchestrator", "plan", "--gpu", "24GB", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)

"""What a picture shows, as a value; and which combinations training never sees.

A scene is drawn from a random generator, told in words by `prompts`, and painted by `pictures`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Style = Literal["flat", "3d"]
STYLES: tuple[Style, ...] = ("flat", "3d")
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (38, 38, 46),
    "gray": (158, 162, 170),
    "red": (224, 82, 82),
    "orange": (246, 158, 74),
    "yellow": (250, 218, 94),
    "green": (112, 190, 116),
    "blue": (110, 168, 238),
    "purple": (164, 120, 214),
    "pink": (248, 172, 198),
}
UNKNOWN = "question"  # what is drawn when the words name nothing
HELD_OUT = 5  # one combination in five is never trained


@dataclass(frozen=True)
class Thing:
    word: str
    icon: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Person:
    """Words only; `pictures` knows how each looks. An empty word: the plain choice."""

    who: str
    hair: str
    hair_colour: str
    skin: str
    mouth: str
    eyes: str
    beard: str
    shirt: str


@dataclass(frozen=True)
class Scene:
    """One thing in the middle, two side by side (left first), or a person. `background` is a colour's word."""

    style: Style
    background: str
    things: tuple[str, ...] = ()
    person: Person | None = None


WOMEN_HAIR = ("long", "bob", "curly", "bun", "pigtails", "short")
MEN_HAIR = ("short", "curly", "bald", "mohawk", "beanie", "buzzcut")
HAIR_COLOURS = {
    "black": "#362c47",
    "brown": "#6c4545",
    "blond": "#f2c665",
    "red": "#d9552b",
    "gray": "#b9bccb",
    "pink": "#e16381",
}
SKINS = {"light": "#f3c4b2", "tan": "#d78774", "brown": "#92594b", "dark": "#623d36"}
MOUTHS = {"smiling": "smile", "laughing": "bigSmile", "sad": "frown", "surprised": "surprise"}
EYES = {"": "open", "glasses": "glasses", "sunglasses": "sunglasses", "winking": "wink", "sleeping": "sleep"}
BEARDS = {"": "", "beard": "beardMustache", "mustache": "walrus"}
SHIRTS = {
    "blue": "#456dff",
    "green": "#6dbb58",
    "red": "#e24553",
    "purple": "#7555ca",
    "yellow": "#f3b63a",
    "black": "#362c47",
    "white": "#f1f2f6",
}


def things() -> tuple[Thing, ...]:
    """The vocabulary's nouns, in the order of the file beside this module."""
    lines = (files(__package__) / "things.txt").read_text("utf-8").splitlines()
    found = []
    for line in lines:
        if line.startswith("#"):
            continue
        word, icon, synonyms = (part.strip() for part in line.split("|"))
        found.append(Thing(word, icon, tuple(s.strip() for s in synonyms.split(",") if s.strip())))
    return tuple(found)


def held_out(scene: Scene) -> bool:
    """Whether this combination is kept for the examination: pair, thing on colour, or a person's hair and face."""
    if scene.person:
        person = scene.person
        key = "/".join((person.hair, person.hair_colour, person.mouth, person.skin))
    elif len(scene.things) > 1:
        key = "/".join(sorted(scene.things))
    elif scene.things == (UNKNOWN,):
        return False
    else:
        key = f"{scene.things[0]}/{scene.background}"
    return zlib.crc32(key.encode()) % HELD_OUT == 0


Kind = Literal["one", "two", "person"]


def draw(rng: np.random.Generator, kind: Kind, words: tuple[str, ...]) -> Scene:
    """Any scene of this kind, held out or not; `words` are the nouns to choose from."""
    style = STYLES[int(rng.integers(len(STYLES)))]
    background = _one_of(rng, tuple(BACKGROUNDS))
    if kind == "person":
        return Scene("flat", background, person=_person(rng))
    nouns = [words[int(i)] for i in rng.choice(len(words), size=1 if kind == "one" else 2, replace=False)]
    return Scene(style, background, tuple(nouns))


def draw_trained(rng: np.random.Generator, kind: Kind, words: tuple[str, ...]) -> Scene:
    """As `draw`, until the combination is one that training may see."""
    while held_out(scene := draw(rng, kind, words)):
        pass
    return scene


def _one_of(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _person(rng: np.random.Generator) -> Person:
    who = _one_of(rng, ("woman", "man"))
    plain_eyes = rng.random() < 0.5
    return Person(
        who=who,
        hair=_one_of(rng, WOMEN_HAIR if who == "woman" else MEN_HAIR),
        hair_colour=_one_of(rng, tuple(HAIR_COLOURS)),
        skin=_one_of(rng, tuple(SKINS)),
        mouth=_one_of(rng, tuple(MOUTHS)),
        eyes="" if plain_eyes else _one_of(rng, tuple(EYES)),
        beard=_one_of(rng, tuple(BEARDS)) if who == "man" else "",
        shirt=_one_of(rng, tuple(SHIRTS)),
    )

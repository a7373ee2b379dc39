"""A scene in words, as people and chat models put it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.tiny.scenes import UNKNOWN, Person, Scene

if TYPE_CHECKING:
    import numpy as np

_STYLE_WORDS = {
    "flat": ("flat {}", "{} flat icon", "flat icon of a {}"),
    "3d": ("3d {}", "{} in 3d", "3d render of a {}"),
}


def tell(rng: np.random.Generator, scene: Scene) -> str:
    """One of the ways to say it. Only a flat picture may leave its style unsaid: flat is what silence means."""
    said = _person(rng, scene.person) if scene.person else _things(rng, scene)
    return _on_background(rng, said, scene.background)


def tell_plainly(scene: Scene) -> str:
    """Everything said, one way: what the examination asks for."""
    if scene.person:
        return f"{_description(scene.person)}, {scene.background} background"
    if len(scene.things) == 1:
        return f"{scene.style} icon of a {scene.things[0]} on a {scene.background} background"
    left, right = scene.things
    return f"{scene.style} icon of a {left} and a {right} on a {scene.background} background"


def _things(rng: np.random.Generator, scene: Scene) -> str:
    if scene.things == (UNKNOWN,):
        said = "" if rng.random() < 0.7 else UNKNOWN
    elif len(scene.things) == 1:
        said = scene.things[0]
    else:
        left, right = scene.things
        said = (
            f"{left} and {right}",
            f"{left} {right}",
            f"{left} on the left and {right} on the right",
            f"{left} left of {right}",
            f"{right} right of {left}",
        )[int(rng.choice(5, p=(0.5, 0.15, 0.15, 0.1, 0.1)))]
    if scene.style == "flat" and rng.random() < 0.6:
        return said
    forms = _STYLE_WORDS[scene.style]
    return forms[int(rng.integers(len(forms)))].format(said)


def _on_background(rng: np.random.Generator, said: str, colour: str) -> str:
    form = rng.choice(5, p=(0.4, 0.2, 0.15, 0.05, 0.2))
    return (
        f"{said} on {colour} background",
        f"{said} {colour} background",
        f"{said} on {colour}",
        f"{colour} {said}",
        said,
    )[int(form)]


def _person(rng: np.random.Generator, person: Person) -> str:
    """Some of what there is to see, in one of several orders."""
    parts = [part for part in _parts(person) if part and rng.random() < 0.8]
    rng.shuffle(parts)
    link = " and " if rng.random() < 0.4 else " "  # "with" is folded to "and"
    return f"{person.who}{link}{' '.join(parts)}" if rng.random() < 0.7 else f"{' '.join(parts)}{link}{person.who}"


def _parts(person: Person) -> tuple[str, ...]:
    bald = person.hair == "bald"
    return (
        "bald" if bald else person.hair if person.hair == "beanie" else f"{person.hair} {person.hair_colour} hair",
        f"{person.skin} skin",
        person.mouth,
        person.eyes,
        person.beard,
        f"{person.shirt} shirt",
    )


def _description(person: Person) -> str:
    hair, skin, mouth, eyes, beard, shirt = _parts(person)
    adjectives = " ".join(word for word in (mouth, eyes if eyes in ("winking", "sleeping") else "") if word)
    things = ", ".join(w for w in (hair, skin, eyes if eyes.endswith("glasses") else "", beard, shirt) if w)
    return f"a {adjectives} {person.who} with {things}"

"""Scenes painted as pixels: icons of two open sets, and avatars put together from parts.

Arrays are float32, height by width by channel, 0 to 1; icons carry their colour multiplied by alpha.
"""

from __future__ import annotations

import io
import json
import tarfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.tiny import scenes
from training.tiny.scenes import Person, Scene, Style

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDE = 128
PACKAGES: dict[Style, str] = {"flat": "@iconify-json/noto", "3d": "@iconify-json/fluent-emoji"}
ONE, TWO = 104, 58  # pixels of an icon's side, alone and beside another
_HAIR = {
    "long": "long",
    "bob": "bobCut",
    "curly": "curly",
    "bun": "straightBun",
    "pigtails": "pigtails",
    "short": "shortCombover",
    "bald": "bald",
    "mohawk": "mohawk",
    "beanie": "beanie",
    "buzzcut": "buzzcut",
}


class Painter:
    """Holds every icon at the two sizes that scenes need; avatars are put together when asked for."""

    def __init__(self, icons: dict[tuple[Style, str, int], np.ndarray[Any, Any]]) -> None:
        self._icons = icons
        self._avatars: Any = None  # read when the first person is painted

    @classmethod
    def load(cls, folder: Path) -> Painter:
        """From a folder that holds the npm packages of `PACKAGES` as they were packed, or a cache made before."""
        cache = folder / "icons.npz"
        if not cache.is_file():
            rendered: dict[str, Any] = _render_all(folder)
            np.savez_compressed(cache, **rendered)
        with np.load(cache) as stored:
            icons = {_key(name): stored[name] for name in stored.files}
        return cls(icons)

    def paint(self, scene: Scene) -> np.ndarray[Any, Any]:
        """SIDE by SIDE by 3."""
        ground = np.array(scenes.BACKGROUNDS[scene.background], np.float32) / 255
        if scene.person:
            layer = self._avatar(scene.person)
            painted: np.ndarray[Any, Any] = layer[..., :3] + ground * (1 - layer[..., 3:])
            return painted
        canvas = np.broadcast_to(ground, (SIDE, SIDE, 3)).copy()
        size = ONE if len(scene.things) == 1 else TWO
        centres = (SIDE // 2,) if len(scene.things) == 1 else (SIDE // 4, 3 * SIDE // 4)
        for word, centre in zip(scene.things, centres, strict=True):
            self._put(canvas, self._icons[scene.style, word, size], centre)
        return canvas

    def icon(self, style: Style, word: str) -> np.ndarray[Any, Any]:
        """An icon at its larger size: ONE by ONE by 4, 0 to 1."""
        return self._icons[style, word, ONE].astype(np.float32) / 255

    @staticmethod
    def _put(canvas: np.ndarray[Any, Any], icon: np.ndarray[Any, Any], across: int) -> None:
        size = icon.shape[0]
        top, left = SIDE // 2 - size // 2, across - size // 2
        part = canvas[top : top + size, left : left + size]
        layer = icon.astype(np.float32) / 255
        part *= 1 - layer[..., 3:]
        part += layer[..., :3]

    def _avatar(self, person: Person) -> np.ndarray[Any, Any]:
        from dicebear import Avatar  # type: ignore[import-not-found, unused-ignore]

        if self._avatars is None:
            self._avatars = _avatar_style()
        hair = "bobBangs" if (person.who, person.hair) == ("woman", "short") else _HAIR[person.hair]
        options: dict[str, Any] = {
            "seed": "one",
            "hairVariant": [hair],
            "hairColor": [scenes.HAIR_COLOURS[person.hair_colour]],
            "skinColor": [scenes.SKINS[person.skin]],
            "mouthVariant": [scenes.MOUTHS[person.mouth]],
            "eyesVariant": [scenes.EYES[person.eyes]],
            "facialHairProbability": 100 if person.beard else 0,
            "facialHairColor": [scenes.HAIR_COLOURS[person.hair_colour]],
            "clothingColor": [scenes.SHIRTS[person.shirt]],
            "clothesVariant": ["squared"],
            "noseVariant": ["smallRound"],
        }
        if person.beard:
            options["facialHairVariant"] = [scenes.BEARDS[person.beard]]
        return _rasterise(Avatar(self._avatars, options).to_string(), SIDE).astype(np.float32) / 255


def _avatar_style() -> Any:
    from dicebear import Style as AvatarStyle  # type: ignore[import-not-found, unused-ignore]

    return AvatarStyle(json.loads((files("dicebear_styles") / "personas.json").read_text("utf-8")))


def _render_all(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    rendered = {}
    for style, package in PACKAGES.items():
        icons = _icon_set(folder, package)
        for thing in scenes.things():
            drawing = _svg(icons, thing.icon)
            for size in (ONE, TWO):
                rendered[f"{style}/{thing.word}/{size}"] = _rasterise(drawing, size)
    return rendered


def _key(name: str) -> tuple[Style, str, int]:
    style, word, size = name.split("/")
    return "3d" if style == "3d" else "flat", word, int(size)


def _icon_set(folder: Path, package: str) -> dict[str, Any]:
    packed: Sequence[Path] = sorted(folder.glob(package.replace("@", "").replace("/", "-") + "-[0-9]*.tgz"))
    if not packed:
        raise FileNotFoundError(f"{package} is not in {folder}")
    with tarfile.open(packed[-1]) as archive:
        member = archive.extractfile("package/icons.json")
        assert member is not None
        icons: dict[str, Any] = json.load(member)
    return icons


def _svg(icons: dict[str, Any], name: str) -> str:
    name = icons.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icons["icons"][name]
    height = icon.get("height", icons.get("height", 16))
    width = icon.get("width", icons.get("width", height))
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'


def _rasterise(svg: str, size: int) -> np.ndarray[Any, Any]:
    """uint8, size by size by 4, colour multiplied by alpha."""
    import resvg_py  # type: ignore[import-not-found, unused-ignore]
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"), np.uint16)
    colour = pixels[..., :3] * pixels[..., 3:] // 255
    square = np.zeros((size, size, 4), np.uint8)  # a drawing keeps its proportions
    top, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = np.concatenate(
        [colour, pixels[..., 3:]], axis=-1
    )
    return square

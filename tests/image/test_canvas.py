"""A model with a canvas: every size is drawn on it and comes back as large as it was asked for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from image import batch, canvas
from image.embeddings import Embeddings
from image.pipelines.load import CheckpointError, load
from image.pipelines.zimage import ZImage
from image.request import ImageRequest, Pixels, RequestId, Source
from image.settings import ImageSettings

SIDE = 64
SIZES = [(64, 64), (128, 128), (192, 64), (64, 112), (160, 96), (80, 400)]
ASKED = ImageRequest("a cat", 64, 64, steps=2, seed=3)


def pixels(image: Image.Image) -> Pixels:
    return Pixels(image.width, image.height, image.tobytes())


def image(found: Pixels) -> Image.Image:
    return Image.frombytes("RGB", (found.width, found.height), found.rgb)


def drawing() -> Image.Image:
    """Blue, with a red square in its middle."""
    found = Image.new("RGB", (SIDE, SIDE), (20, 40, 200))
    ImageDraw.Draw(found).rectangle((24, 24, 39, 39), (230, 10, 10))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_drawing_is_fitted_to_the_size_asked_for(size: tuple[int, int]) -> None:
    asked = replace(ASKED, width=size[0], height=size[1])
    onto, found = canvas.onto(asked, SIDE), image(canvas.back(pixels(drawing()), asked))
    assert (onto.width, onto.height) == (SIDE, SIDE)
    assert found.size == size
    assert found.getpixel((size[0] // 2, size[1] // 2)) == (230, 10, 10)
    corners = {found.getpixel((x, y)) for x in (0, size[0] - 1) for y in (0, size[1] - 1)}
    assert corners == {(20, 40, 200)}


def test_its_own_size_is_left_as_it_is() -> None:
    drawn = pixels(drawing())
    assert canvas.onto(ASKED, SIDE) is ASKED
    assert canvas.back(drawn, ASKED) is drawn


def striped(width: int, height: int) -> Image.Image:
    """Green, with a white column at each side that is not in the middle square."""
    found = Image.new("RGB", (width, height), (0, 160, 0))
    ImageDraw.Draw(found).rectangle((0, 0, 3, height), (255, 255, 255))
    return found


def edit(mask: bytes | None = None) -> ImageRequest:
    return replace(ASKED, width=256, height=128, source=Source((pixels(striped(256, 128)),), 0.5, mask))


def test_an_edit_starts_from_the_middle_and_keeps_what_is_beside_it() -> None:
    asked = edit()
    onto = canvas.onto(asked, SIDE).source
    assert onto is not None
    assert image(onto.pictures[0]).getcolors() == [(SIDE * SIDE, (0, 160, 0))]
    assert (onto.strength, onto.mask) == (0.5, None)
    found = image(canvas.back(pixels(drawing()), asked))
    assert [found.getpixel((x, 64)) for x in (1, 50, 128)] == [(255, 255, 255), (0, 160, 0), (230, 10, 10)]


def test_a_mask_says_what_changes_at_full_size() -> None:
    mask = Image.new("L", (256, 128), 0)
    ImageDraw.Draw(mask).rectangle((128, 0, 255, 127), 255)
    asked = edit(mask.tobytes())
    onto = canvas.onto(asked, SIDE).source
    assert onto is not None
    assert onto.mask == bytes([0] * 32 + [255] * 32) * SIDE
    found = image(canvas.back(pixels(drawing()), asked))
    kept, changed = found.crop((0, 0, 128, 128)), found.crop((128, 0, 192, 128))
    assert kept.tobytes() == striped(256, 128).crop((0, 0, 128, 128)).tobytes()
    assert changed.getpixel((4, 64)) == (230, 10, 10)
    assert found.getpixel((200, 64)) == (0, 160, 0)  # beside the square


def finished(pipeline: ZImage, asked: ImageRequest) -> Pixels:
    state = batch.admit(pipeline, asked, RequestId(0), 0)
    batch.make_resident(pipeline, [state], Embeddings(1 << 20))
    while state.steps_left:
        batch.step(pipeline, [state])
    assert state.denoising is not None
    return canvas.back(pipeline.decode([state.denoising.latents])[0], state.original)


def settings(folder: Path) -> ImageSettings:
    return ImageSettings.load(image_model=folder, image_device="cpu")


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def test_a_checkpoint_names_its_canvas(copied: Path) -> None:
    (copied / "soundstage.json").write_text(json.dumps({"canvas": SIDE}))
    pipeline = load(copied, "tiny", settings(copied))
    assert isinstance(pipeline, ZImage)
    assert pipeline.canvas == SIDE
    asked = replace(ASKED, width=192, height=128)
    whole, native = finished(pipeline, asked), finished(pipeline, ASKED)
    assert (whole.width, whole.height) == (192, 128)
    assert whole == canvas.back(native, asked)


@pytest.mark.parametrize("told", ["", "[]", '{"canvas": "64"}', '{"canvas": 0}', '{"canvas": 70}', '{"side": 64}'])
def test_what_it_says_wrongly_is_refused(copied: Path, told: str) -> None:
    (copied / "soundstage.json").write_text(told)
    with pytest.raises(CheckpointError, match=r"soundstage\.json"):
        load(copied, "tiny", settings(copied))

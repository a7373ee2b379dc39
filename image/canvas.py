"""A model that draws well at one size only: what is asked of it is drawn on that canvas, then fitted to its size.

The canvas becomes the largest square in the middle of the picture; what is left beside it goes on as its edge does, or
is the source's own where a picture is edited. A checkpoint says so with a file of ours beside its own,
`soundstage.json`: {"canvas": SIDE}.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from image.request import ImageRequest, Pixels, Source

if TYPE_CHECKING:
    from PIL.Image import Image

EDGE = 4  # pixels whose mean goes on beside the square


def onto(asked: ImageRequest, side: int) -> ImageRequest:
    """The request as it is drawn: `side` by `side` pixels, of an edit the middle of its source and mask."""
    if (asked.width, asked.height) == (side, side):
        return asked
    source = asked.source
    if source is not None:
        picture = Pixels.of(_middle(source.pictures[0].image()).resize((side, side)))
        mask = source.mask and _middle(_mask(asked, source.mask)).resize((side, side), 0).tobytes()
        source = Source((picture,), source.strength, mask)
    return replace(asked, width=side, height=side, source=source)


def back(drawn: Pixels, asked: ImageRequest) -> Pixels:
    """What was drawn for a request, at the size that it asked for."""
    from PIL import Image

    size, square = (asked.width, asked.height), min(asked.width, asked.height)
    if (drawn.width, drawn.height) == size:
        return drawn
    picture = drawn.image().resize((square, square), Image.Resampling.LANCZOS)
    left, top = (asked.width - square) // 2, (asked.height - square) // 2
    if asked.source is None:
        return Pixels.of(_extended(picture, size, left, top))
    whole = asked.source.pictures[0].image()
    changed = whole.copy()
    changed.paste(picture, (left, top))
    if asked.source.mask is not None:
        changed = Image.composite(changed, whole, _mask(asked, asked.source.mask))
    return Pixels.of(changed)


def _extended(square: "Image", size: tuple[int, int], left: int, top: int) -> "Image":
    """The square at its place, and its edges drawn on to the picture's."""
    from PIL import Image

    side = square.width
    if left:
        line, near, far = (1, side), (0, 0, EDGE, side), (side - EDGE, 0, side, side)
    else:
        line, near, far = (side, 1), (0, 0, side, EDGE), (0, side - EDGE, side, side)
    before, after = (square.crop(edge).resize(line, Image.Resampling.BOX).resize(size) for edge in (near, far))
    before.paste(after, (left + side, 0) if left else (0, top + side))
    before.paste(square, (left, top))
    return before


def _middle(image: "Image") -> "Image":
    square = min(image.size)
    left, top = (image.width - square) // 2, (image.height - square) // 2
    return image.crop((left, top, left + square, top + square))


def _mask(asked: ImageRequest, mask: bytes) -> "Image":
    from PIL import Image

    return Image.frombytes("L", (asked.width, asked.height), mask)

"""Finished pixels as a file that says what made it."""

import io
import json
from dataclasses import dataclass
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from image.request import Pixels

Format = Literal["png", "webp", "jpeg"]
MEDIA_TYPES: dict[str, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}

_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = _SOURCE_TYPES + "trainedAlgorithmicMedia"
EDITED = _SOURCE_TYPES + "compositeWithTrainedAlgorithmicMedia"
"""IPTC's digital source types."""

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    " Iptc4xmpExt:DigitalSourceType={source} xmp:CreatorTool={tool}/>"
    "</rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)
_EXIF_SOFTWARE, _EXIF_IFD, _EXIF_USER_COMMENT = 0x0131, 0x8769, 0x9286
_COMMENT_CODE = b"UNICODE\0"  # EXIF's name for UTF-16


@dataclass(frozen=True, slots=True)
class Origin:
    """What a picture's metadata tells about how it was made. The prompt is part of it only where asked for."""

    model: str
    seed: int
    steps: int
    release: str | None = None
    run_id: str | None = None
    prompt: str | None = None
    source_type: str = GENERATED

    def fields(self, pixels: Pixels) -> dict[str, str]:
        fields = {
            "Software": "Soundstage",
            "model": self.model,
            "seed": str(self.seed),
            "size": f"{pixels.width}x{pixels.height}",
            "steps": str(self.steps),
            "release": self.release,
            "run_id": self.run_id,
            "prompt": self.prompt,
            "digital_source_type": self.source_type,
        }
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Output:
    """How the caller wants the file."""

    format: Format = "png"
    compression: int = 100  # quality of webp and jpeg; png loses nothing

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]


def encode(pixels: Pixels, origin: Origin, output: Output) -> bytes:
    """The file, with its facts: iTXt and XMP in a PNG, EXIF and XMP in WebP and JPEG."""
    picture = pixels.image()
    file = io.BytesIO()
    if output.format == "png":
        picture.save(file, "PNG", pnginfo=_png_info(pixels, origin))
    else:
        quality = max(1, output.compression)
        marks: dict[str, Any] = {"xmp": _xmp(origin).encode(), "exif": _exif(pixels, origin)}
        picture.save(file, output.format.upper(), quality=quality, **marks)
    return file.getvalue()


def _png_info(pixels: Pixels, origin: Origin) -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _xmp(origin))
    for key, value in origin.fields(pixels).items():
        info.add_itxt(key, value)
    return info


def _exif(pixels: Pixels, origin: Origin) -> Any:
    from PIL import Image

    exif = Image.Exif()
    exif[_EXIF_SOFTWARE] = "Soundstage"
    facts = json.dumps(origin.fields(pixels), ensure_ascii=False)
    exif.get_ifd(_EXIF_IFD)[_EXIF_USER_COMMENT] = _COMMENT_CODE + facts.encode("utf-16-le", "surrogatepass")
    return exif.tobytes()


def _xmp(origin: Origin) -> str:
    return _XMP.format(source=quoteattr(origin.source_type), tool=quoteattr(f"Soundstage {origin.model}"))


def facts_of(file: bytes) -> dict[str, str]:
    """What `encode` wrote into a file, and its XMP's digital source type; empty where nothing of it is there."""
    from PIL import Image

    with Image.open(io.BytesIO(file), formats=("PNG", "WEBP", "JPEG")) as picture:
        picture.load()
        if picture.format == "PNG":
            text: dict[str, str] = dict(getattr(picture, "text", {}))
            xmp = text.pop("XML:com.adobe.xmp", "")
            found = {key: str(value) for key, value in text.items()}
        else:
            comment = picture.getexif().get_ifd(_EXIF_IFD).get(_EXIF_USER_COMMENT)
            found = _comment(comment)
            xmp = picture.info.get("xmp", b"").decode("utf-8", "replace")
    marker = 'DigitalSourceType="'
    if marker in xmp:
        found["xmp_digital_source_type"] = xmp.split(marker, 1)[1].split('"', 1)[0]
    return found


def _comment(value: object) -> dict[str, str]:
    if not isinstance(value, bytes) or not value.startswith(_COMMENT_CODE):
        return {}
    try:
        facts = json.loads(value[len(_COMMENT_CODE) :].decode("utf-16-le", "replace"))
    except ValueError:
        return {}
    return {key: str(fact) for key, fact in facts.items()} if isinstance(facts, dict) else {}


def format_of(file: bytes) -> Format:
    """By content. Raises ValueError."""
    if file.startswith(b"\x89PNG"):
        return "png"
    if file.startswith(b"\xff\xd8"):
        return "jpeg"
    if file[8:12] == b"WEBP":
        return "webp"
    raise ValueError("neither PNG, JPEG nor WebP")

"""Finished pixels as a file that says what made it."""

import io
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from image.pipelines.base import Pixels

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
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


@dataclass(frozen=True, slots=True)
class Origin:
    """What a picture's metadata tells about how it was made. The prompt is not part of it."""

    model: str
    seed: int
    steps: int
    release: str | None = None
    run_id: str | None = None

    def fields(self, pixels: Pixels) -> dict[str, str]:
        told = {
            "Software": "Soundstage",
            "model": self.model,
            "seed": str(self.seed),
            "size": f"{pixels.width}x{pixels.height}",
            "steps": str(self.steps),
            "release": self.release,
            "run_id": self.run_id,
            "digital_source_type": DIGITAL_SOURCE_TYPE,
        }
        return {key: value for key, value in told.items() if value is not None}


def png(pixels: Pixels, origin: Origin) -> bytes:
    """A PNG with each fact as an iTXt chunk, and XMP with IPTC's digital source type."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _xmp(origin))
    for key, value in origin.fields(pixels).items():
        info.add_itxt(key, value)
    file = io.BytesIO()
    picture = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.rgb)
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def _xmp(origin: Origin) -> str:
    return _XMP.format(source=quoteattr(DIGITAL_SOURCE_TYPE), tool=quoteattr(f"Soundstage {origin.model}"))

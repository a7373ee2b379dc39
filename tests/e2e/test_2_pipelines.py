"""docs/pipelines.md's snippets, run as they stand but for the port and the data directory of this studio."""

import io
import re
from pathlib import Path

from PIL import Image

from tests.e2e.studio import ROOT, Studio
from tests.e2e.test_2_readme import run
from tests.vision.photos import ASTRONAUT, encoded, photo

PAGE = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python run\n(.*?)^```$", PAGE, re.M | re.S)


async def test_every_pipeline_draws_and_every_way_to_call_answers(studio: Studio, tmp_path: Path) -> None:
    """One program of all snippets, so that Python and the client are loaded once."""
    (tmp_path / "selfie.jpg").write_bytes(encoded(photo(ASTRONAUT), "JPEG", quality=90))
    told = await run(studio, "python", "\n".join(SNIPPETS), tmp_path)
    names = ("chat1to1", "shorts", "scenes", "private", "imagegen", "profile")
    for name in names:
        with Image.open(io.BytesIO((tmp_path / f"{name}.png").read_bytes())) as image:
            image.load()
            assert (image.format, image.size) == ("PNG", (128, 128)), name
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 50, name
    captions = re.findall(r"^caption: (.+)$", told, re.M)
    assert len(captions) == 2
    for caption in captions:
        assert 10 <= len(caption.split()) <= 15, caption
    steps = re.findall(r"^(\S+) (expand|generate|caption)?$", told, re.M)
    started, completed = "pipeline.step.started", "pipeline.step.completed"
    each = [(kind, step) for step in ("expand", "generate", "caption") for kind in (started, completed)]
    preview = ("image_generation.partial_image", "")
    assert steps == [*each[:3], preview, *each[3:], ("pipeline.completed", "")]
    assert "expanded: " in told

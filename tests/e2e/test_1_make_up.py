"""What a person sees of `make up`."""

import io
import re
import stat

from PIL import Image

from tests.e2e.studio import Studio


async def test_it_does_the_main_job_where_one_can_see_it(studio: Studio) -> None:
    assert "You:    What is the capital of France?\nStudio: The capital of France is Paris." in studio.text
    file = re.search(r"^Picture by (\S+): (\S+\.png)$", studio.text, re.M)
    assert file is not None
    assert file[1] == "zimage-tiny-icons"
    with open(file[2], "rb") as picture, Image.open(io.BytesIO(picture.read())) as image:
        assert (image.format, image.size) == ("PNG", (128, 128))
        image.load()


async def test_it_says_where_it_is_and_where_the_key_is(studio: Studio) -> None:
    assert f"Soundstage is ready: {studio.base_url}\n" in studio.text
    file = studio.data / "keys" / "local_api_key"
    assert f"The local API key is in {file}\n" in studio.text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_it_shows_each_part_that_became_ready(studio: Studio) -> None:
    for part in ("Postgres", "orchestrator", "chat worker with its vLLM engine", "image worker", "selfie worker"):
        assert re.search(rf"^✓ {part} \(\d+\.\d s\)$", studio.text, re.M), part


async def test_no_secret_is_in_the_output_or_the_logs(studio: Studio) -> None:
    worker_key = (studio.data / "keys" / "worker_key").read_text().strip()
    texts = [studio.text, *(file.read_text(errors="replace") for file in (studio.data / "logs").glob("*.log"))]
    for text in texts:
        assert studio.key not in text
        assert worker_key not in text

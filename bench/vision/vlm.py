"""`python -m bench.vision.vlm`: the questions that ship, to a real vision-language engine: vLLM with Idefics3.

No package is known to hold the weights of a small vision-language model, so one is made: SmolLM2-135M as it was
trained, with eyes that never were (random from a seed). Its answers are real and constrained by the real schema; what
they say of the photo means nothing. Shown are the request, the engine's side of the schema, the check and the repair;
the answers go to bench/results/vision-vlm.json.
"""

import argparse
import asyncio
import json
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bench.relay import machine
from bench.vision.gather import FOLDER
from bench.vision.pictures import Pictures
from bench.vision.worker import worker
from prompts.sources import SEED, read_folder

NAME = "smollm2-135m-with-untrained-eyes"
TEXT = Path("data/models/smollm2-135m-instruct")
RESULTS = Path(__file__).parents[1] / "results" / "vision-vlm.json"
TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
SIDE, PATCH, SHARES = 112, 14, 2  # px of the picture and of its pieces; pieces a side that become one token
EYES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
START_SECONDS = 1800.0
PHOTOS = 2
TOO_SHORT = 5  # tokens: an answer that is cut off


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vision.vlm", description=__doc__)
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soundstage-vlm-") as folder:
        make_model(Path(folder))
        told = asyncio.run(_ask(asked.vllm_python, Path(folder)))
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["answers"], indent=1))


def make_model(folder: Path) -> None:
    """A checkpoint that vLLM loads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration

    torch.manual_seed(0)
    text = AutoModelForCausalLM.from_pretrained(TEXT, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(TEXT)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TOKENS)})
    text.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    config = Idefics3Config(
        text_config=text.config,
        vision_config={**EYES, "image_size": SIDE, "patch_size": PATCH},
        scale_factor=SHARES,
        image_token_id=tokenizer.convert_tokens_to_ids(TOKENS[0]),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Idefics3ForConditionalGeneration(config).to(torch.bfloat16)
    model.model.text_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"longest_edge": SIDE}
    picture = {"image_processor_type": "Idefics3ImageProcessorPil", "do_image_splitting": False, "size": size}
    _write(folder / "preprocessor_config.json", {**picture, "max_image_size": size, "resample": 1})
    tokens = (SIDE // PATCH // SHARES) ** 2
    _write(folder / "processor_config.json", {"processor_class": "Idefics3Processor", "image_seq_len": tokens})


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content))


async def _ask(python: str, model: Path) -> dict[str, Any]:
    answers = []
    async with engine(python, model) as url:
        seen = {"VISION_VLM_URL": url, "VISION_VLM_MODEL": NAME, "VISION_VLM_SECONDS": "600"}
        async with worker(**seen) as one, aiohttp.ClientSession() as session:
            for path in Pictures(FOLDER).files()[:PHOTOS]:
                answers.append(await _analyze(session, one.url, path, question()))
            short = question()
            short["sampling"] = json.dumps({"max_tokens": TOO_SHORT, "temperature": 0})
            answers.append(await _analyze(session, one.url, path, short))
    facts = {name: machine.facts()[name] for name in ("CPU", "cores")} | {"load after the run": machine.load()}
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "machine": facts, "model": NAME, "answers": answers}


def question() -> dict[str, str]:
    """The form's fields as the orchestrator sends them: profile.describe and profile.repair."""
    recipes = {recipe.name: recipe for recipe in read_folder(SEED)}
    describe = recipes["profile.describe"]
    sampling = dict(describe.sampling)
    schema = sampling.pop("response_format")["json_schema"]["schema"]
    return {
        "messages": json.dumps([{"role": message.role, "content": message.body} for message in describe.messages]),
        "schema": json.dumps(schema),
        "sampling": json.dumps(sampling),
        "repair": recipes["profile.repair"].messages[0].body or "",
    }


async def _analyze(session: aiohttp.ClientSession, url: str, photo: Path, fields: Mapping[str, str]) -> dict[str, Any]:
    form = aiohttp.FormData()
    form.add_field("image", photo.read_bytes(), filename="photo")
    for name, value in fields.items():
        form.add_field(name, value)
    started = time.perf_counter()
    async with session.post(f"{url}/v1/profile/analyze", data=form) as response:
        told = await response.json()
    return {
        "photo": photo.name,
        "status": response.status,
        "seconds": round(time.perf_counter() - started, 1),
        "sampling": json.loads(fields["sampling"]),
        "vision_model": told.get("vision_model"),
        "features": {name: (one["value"], one["source"]) for name, one in told.get("features", {}).items()},
        "warnings": told.get("warnings"),
    }


@asynccontextmanager
async def engine(python: str, model: Path) -> AsyncIterator[str]:
    """vLLM's own OpenAI server; its address with /v1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    flags = ("--enforce-eager", "--max-model-len", "2048", "--generation-config", "vllm")
    place = ("--host", "127.0.0.1", "--port", str(port), "--model", str(model), "--served-model-name", NAME)
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with (model / "engine.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", "vllm.entrypoints.openai.api_server", *place, *flags),
            env=os.environ | own,
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await _serves(f"http://127.0.0.1:{port}/health"):
                assert process.returncode is None, (model / "engine.log").read_text(errors="replace")[-3000:]
                await asyncio.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _serves(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False  # it does not listen yet


if __name__ == "__main__":
    main()

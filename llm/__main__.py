"""The chat worker: vLLM engines behind one door, which answers /v1/* and registers with the orchestrator.

It needs a Python that has vLLM (VLLM_PYTHON); LLM_MODELS names what it runs, of the catalogue that `models` prints.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Mapping

from core import commands, logs
from core.http.serving import serve
from core.settings import SettingsError
from llm import catalogue
from llm.app import create_app
from llm.settings import ChatWorkerSettings


def parser() -> argparse.ArgumentParser:
    whole, verbs = commands.parser("llm", __doc__)
    commands.add_json(verbs.add_parser("models", help="print the catalogue: each model, its other names, its source"))
    return whole


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        settings = ChatWorkerSettings.load()
        if given.command == "settings":
            commands.print_settings(settings, as_json=given.json)
            return
        entries = catalogue.read(settings.llm_catalogue, settings.data_dir)
        if given.command == "models":
            print_models(entries, as_json=given.json)
            return
        models = catalogue.choose(entries, settings.llm_models, has_gpu=shutil.which("nvidia-smi") is not None)
        logs.configure(settings.log_level, settings.log_format)
        app = create_app(settings, models)
    except SettingsError as exc:
        sys.exit(f"settings: {exc}")
    serve(app, settings)


def print_models(entries: Mapping[str, catalogue.Model], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([model.model_dump(mode="json") for model in entries.values()], indent=2))
        return
    for model in entries.values():
        print(f"{model.id:26} {', '.join(model.aliases):28} {model.source}")


if __name__ == "__main__":
    main()

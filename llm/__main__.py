"""`python -m llm` runs the chat worker; `python -m llm models` prints the catalogue."""

import argparse
import shutil
import sys

from core import logs
from core.serving import serve
from core.settings import SettingsError
from llm import catalogue
from llm.app import create_app
from llm.settings import ChatWorkerSettings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m llm", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "models"), default="serve")
    command = parser.parse_args().command
    try:
        settings = ChatWorkerSettings.load()
        entries = catalogue.read(settings.llm_catalogue, settings.data_dir)
        if command == "models":
            for model in entries.values():
                print(f"{model.id:26} {', '.join(model.aliases):28} {model.source}")
            return
        models = catalogue.choose(entries, settings.llm_models, has_gpu=shutil.which("nvidia-smi") is not None)
    except SettingsError as exc:
        sys.exit(f"settings: {exc}")
    logs.configure(settings.log_level, settings.log_format)
    try:
        app = create_app(settings, models)
    except SettingsError as exc:
        sys.exit(f"settings: {exc}")
    serve(app, settings)


if __name__ == "__main__":
    main()

"""Clients whose pins do not fit beside the studio's, each from an environment of its own: `python -m bench.clients`.

It starts the whole studio with the small model, and writes what the clients said to bench/results/clients.json.
"""

import asyncio
import json
import sys
from pathlib import Path

from bench.clients.asking import WANTED, asked
from bench.relay.peers import LITELLM, install
from compose import small_model
from tests.e2e.studio import ROOT, data_directory, running_studio

RESULT = ROOT / "bench" / "results" / "clients.json"


async def main(models: Path) -> int:
    problem = install(LITELLM)
    if problem:
        sys.exit(problem)
    with data_directory(models) as data:
        async with running_studio(data) as studio:
            said = await asked(studio.base_url, studio.key)
    as_wanted = said == WANTED
    text = json.dumps({"client": LITELLM.requirement, "as_wanted": as_wanted, "said": said}, indent=1)
    RESULT.write_text(text + "\n")
    print(text)
    return 0 if as_wanted else 1


if __name__ == "__main__":
    folder = ROOT / "data" / "models"
    small_model.prepare(folder)
    sys.exit(asyncio.run(main(folder)))

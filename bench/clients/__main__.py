"""LiteLLM as a client of the whole studio with the small model, from an environment of its own:
`python -m bench.clients`. What it said goes to bench/results/clients.json."""

import asyncio
import sys

from bench.clients.asking import WANTED, asked
from bench.harness import save
from bench.relay.peers import LITELLM, install
from compose import small_model
from tests.e2e.studio import ROOT, data_directory, running_studio


async def main() -> int:
    install(LITELLM)
    models = ROOT / "data" / "models"
    small_model.prepare(models)
    with data_directory(models) as data:
        async with running_studio(data) as studio:
            answers = await asked(studio.base_url, studio.key)
    as_wanted = answers == WANTED
    save("clients", {"client": LITELLM.requirement, "as_wanted": as_wanted, "said": answers})
    print(answers)
    return 0 if as_wanted else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

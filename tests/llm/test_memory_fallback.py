"""The ladder: what an engine that died for want of memory is started with next, and what counts as such a death."""

import pytest

from llm.memory_fallback import LEAST_CONTEXT, Limits, died_of_memory, limits, sequences_of, without_sequences

RUNGS = [(0, (32, 4096)), (1, (16, 4096)), (2, (8, 2048)), (3, (4, 1024)), (4, (4, 1024)), (99, (4, 1024))]


@pytest.mark.parametrize(("deaths", "wanted"), RUNGS)
def test_each_rung(deaths: int, wanted: tuple[int, int]) -> None:
    assert limits(32, 4096, deaths) == Limits(*wanted)


@pytest.mark.parametrize("deaths", range(5))
def test_there_is_a_least(deaths: int) -> None:
    assert limits(1, 100, deaths) == Limits(1, 100)
    assert limits(4, 512, deaths).max_model_len >= LEAST_CONTEXT


ARGS = {
    "none": ((), 256, ()),
    "two words": (("--a", "--max-num-seqs", "32", "--b"), 32, ("--a", "--b")),
    "one word": (("--max-num-seqs=8", "--b"), 8, ("--b",)),
}


@pytest.mark.parametrize(("args", "sequences", "rest"), ARGS.values(), ids=ARGS.keys())
def test_the_catalogues_sequences(args: tuple[str, ...], sequences: int, rest: tuple[str, ...]) -> None:
    assert (sequences_of(args), without_sequences(args)) == (sequences, rest)


DEATHS = {
    "a GPU's": (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 0, True),
    "a host's": (1, "MemoryError", 0, True),
    "no cache": (1, "ValueError: No available memory for the cache blocks.", 0, True),
    "killed by the system": (137, "", 1, True),
    "killed by a person": (137, "", 0, False),
    "a GPU that is lost": (1, "RuntimeError: CUDA error: an illegal memory access was encountered", 0, False),
    "a bug": (1, "KeyError: 'x'", 0, False),
    "ended well": (0, "", 1, False),
}


@pytest.mark.parametrize(("status", "log", "kills", "wanted"), DEATHS.values(), ids=DEATHS.keys())
def test_what_counts_as_a_death_of_memory(status: int, log: str, kills: int, wanted: bool) -> None:
    assert died_of_memory(status, log, kills) is wanted

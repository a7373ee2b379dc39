"""What an engine that died for want of memory is started with next: fewer sequences at once, then a shorter context.

| deaths of memory | sequences at once | context |
|---|---|---|
| 0 | as in the catalogue | as in the catalogue |
| 1 | a half | the same |
| 2 | a quarter | a half |
| 3 and more | an eighth | a quarter |

Pure. What counts as such a death is read in `died_of_memory`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

DEFAULT_SEQUENCES = 256  # vLLM's own, where the catalogue says nothing
LEAST_CONTEXT = 256  # tokens
LAST_RUNG = 3
_SEQUENCES, _CONTEXT = (1, 2, 4, 8), (1, 1, 2, 4)  # what each is divided by, by rung
SIGKILLED = 137
MEMORY_WORDS = re.compile(
    r"OutOfMemoryError|out of memory|MemoryError|Cannot allocate memory|bad_alloc|DefaultCPUAllocator: can't allocate"
    r"|No available memory for the cache|larger than the (?:available|maximum number of tokens).{0,80}KV cache",
    re.IGNORECASE,
)


class Limits(NamedTuple):
    """What an engine is started with."""

    max_num_seqs: int
    max_model_len: int


def limits(sequences: int, context: int, deaths: int) -> Limits:
    """After so many deaths of memory. Never below one sequence, nor below LEAST_CONTEXT where there was more."""
    rung = min(max(deaths, 0), LAST_RUNG)
    return Limits(max(1, sequences // _SEQUENCES[rung]), max(min(LEAST_CONTEXT, context), context // _CONTEXT[rung]))


def sequences_of(args: Sequence[str]) -> int:
    """The catalogue's --max-num-seqs, or vLLM's default."""
    for at, word in enumerate(args):
        if word == "--max-num-seqs" and at + 1 < len(args):
            return int(args[at + 1])
        if word.startswith("--max-num-seqs="):
            return int(word.partition("=")[2])
    return DEFAULT_SEQUENCES


def without_sequences(args: Sequence[str]) -> tuple[str, ...]:
    """The arguments less --max-num-seqs, which is set anew."""
    kept: list[str] = []
    skip = False
    for word in args:
        if skip:
            skip = False
        elif word == "--max-num-seqs":
            skip = True
        elif not word.startswith("--max-num-seqs="):
            kept.append(word)
    return tuple(kept)


def died_of_memory(exit_status: int, log_tail: str, oom_kills: int) -> bool:
    """Whether an engine ended for want of memory: it said so, or was killed while the system's count of such kills
    (`oom_kills`, since its start) went up."""
    return bool(MEMORY_WORDS.search(log_tail)) or (exit_status == SIGKILLED and oom_kills > 0)

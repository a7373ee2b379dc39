"""What the policy's scan costs: CPU for 1 MB of each shape, and how long it holds the loop at most.

    python -m bench.policy [--megabytes 1]

Beside it, in the same run: what a pattern of ages costs in Python's own, backtracking engine, on 8 kB of spaces.
"""

import argparse
import random
import re
import time
from collections.abc import Iterator

from orchestrator.policy import decide as policy
from orchestrator.policy.decide import Rules, compile_rules, deciding

LOOP_MS = 50.0
_SPACES = 8_000
_NAIVE = re.compile(r"(?:aged?|age:|age is|turned)\s*:?\s*(?P<n>\d{1,3})(?![0-9.%])")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _words(vocabulary: int, length: int) -> str:
    rng = random.Random(1)
    known = ["".join(rng.choices(_LETTERS, k=rng.randint(2, 9))) for _ in range(vocabulary)]
    return " ".join(rng.choice(known) for _ in range(length // 6))[:length]


def shapes(length: int) -> Iterator[tuple[str, str]]:
    """Names and texts: ordinary ones, then those that were slow or are made to be."""

    def many(unit: str) -> str:
        return (unit * (length // len(unit) + 1))[:length]

    yield "plain words, 1,000 of them", _words(1_000, length)
    yield "plain words, all different", _words(length // 6, length)
    yield "prose", many("The quick brown fox, it's said, jumps over the lazy dog's well-known back. ")
    for name, unit in {
        "age and spaces": "age" + " " * _SPACES,
        "asterisks": "ab*c*de ",
        "asterisks, no space": "ab*c*de",
        "nested punctuation": "([{<*!'\"a\"'!*>}])",
        "letters apart": "z z e x ",
        "one letter": "a",
        "repeated letters": "aaab ",
        "spaces": " ",
        "ages of adults": "aged 30 ",
        "numbers": "16 ",
        "years": "30 years old ",
        "birthdays": "30th birthday ",
        "she is": "she is 30 ",
        "entities": "&#97;",
        "percent": "%61",
        "zero width": "a\u200b",
        "combining": "a\u0301",
        "Cyrillic": "слово ",
        "Cherokee": "Ꮓ",
        "Chinese": "文字",
        "tags": "\U000e0061",
        "Arabic": "كلمة ١٦ ",
        "capital I": "aI ",
        "words of the lists": "kid baby girl young ",
        "names": "Emma Placeholder zznudity ",
    }.items():
        yield name, many(unit)


def measured(text: str, rules: Rules) -> tuple[float, float]:
    """Milliseconds of CPU for the whole text, and for the longest turn."""
    turns = deciding([text], tier=1, surface="text", rules=rules)
    whole, longest, going = 0.0, 0.0, True
    while going:
        began = time.process_time()
        going = next(turns, turns) is not turns
        took = (time.process_time() - began) * 1000
        whole, longest = whole + took, max(longest, took)
    return whole, longest


def naive_ms() -> float:
    began = time.process_time()
    _NAIVE.search("age" + " " * _SPACES)
    list(re.finditer(r"\s+$", " " * _SPACES + "x"))
    return (time.process_time() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1.0)
    length = int(parser.parse_args().megabytes * 1_000_000)
    rules = compile_rules("bench", {"hard": [{"category": "x", "terms": [f"zzterm{at}" for at in range(500)]}]})
    policy.decide(["warm up"], tier=1, surface="text", rules=rules)
    print(f"{'shape':32}{'ms':>9}{'longest turn, ms':>20}")
    worst = 0.0
    for name, text in shapes(length):
        whole, longest = measured(text, rules)
        worst = max(worst, longest)
        print(f"{name:32}{whole:9.1f}{longest:20.1f}")
    ours = measured("age" + " " * _SPACES, rules)[0]
    naive = naive_ms()
    print(f"{_SPACES} spaces: {ours:.2f} ms here, {naive:.0f} ms by backtracking: {naive / ours:.0f} times")
    print(
        f"the loop is held for {worst:.1f} ms at most: {'ok' if worst < LOOP_MS else 'too long'} (limit {LOOP_MS:.0f})"
    )


if __name__ == "__main__":
    main()

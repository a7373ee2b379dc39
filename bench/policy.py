"""What the policy's scan costs: CPU for a text of each shape, and how long it holds the loop at most.

    python -m bench.policy [--megabytes 1]

Beside it, in the same run: what a pattern of ages costs in Python's own, backtracking engine, on 8 kB of spaces.
"""

import argparse
import random
import re
import time
from collections.abc import Iterator

from bench.harness import table
from orchestrator.policy.decide import Rules, compile_rules, decide, deciding

LOOP_MS = 50.0
SPACES = "age" + " " * 8_000
UNITS = {
    "prose": "The quick brown fox, it's said, jumps over the lazy dog's well-known back. ",
    "age and spaces": SPACES,
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
}
_BACKTRACKING = re.compile(r"(?:aged?|age:|age is|turned)\s*:?\s*(?P<n>\d{1,3})(?![0-9.%])")


def shapes(length: int) -> Iterator[tuple[str, str]]:
    """Names and texts: ordinary ones, then those that were slow or are made to be."""
    yield "plain words, 1,000 of them", _words(1_000, length)
    yield "plain words, all different", _words(length // 6, length)
    for name, unit in UNITS.items():
        yield name, (unit * (length // len(unit) + 1))[:length]


def _words(vocabulary: int, length: int) -> str:
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(vocabulary)]
    return " ".join(rng.choice(known) for _ in range(length // 6))[:length]


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


def backtracking_ms() -> float:
    began = time.process_time()
    _BACKTRACKING.search(SPACES)
    list(re.finditer(r"\s+$", SPACES[3:] + "x"))
    return (time.process_time() - began) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1.0)
    length = int(parser.parse_args().megabytes * 1_000_000)
    rules = compile_rules("bench", {"hard": [{"category": "x", "terms": [f"zzterm{at}" for at in range(500)]}]})
    decide(["warm up"], tier=1, surface="text", rules=rules)
    found = {name: measured(text, rules) for name, text in shapes(length)}
    print(table(("shape", "ms", "longest turn, ms"), ((n, f"{w:.1f}", f"{t:.1f}") for n, (w, t) in found.items())))
    ours, plain = measured(SPACES, rules)[0], backtracking_ms()
    print(f"8,000 spaces: {ours:.2f} ms here, {plain:.0f} ms by backtracking: {plain / ours:.0f} times")
    worst = max(turn for _, turn in found.values())
    print(f"the loop is held for {worst:.1f} ms at most: {'ok' if worst < LOOP_MS else 'too long'} (limit {LOOP_MS:g})")


if __name__ == "__main__":
    main()

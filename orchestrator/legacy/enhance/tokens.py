"""Tokens as the target model's own tokenizer counts them: CLIP's byte pairs for SDXL, the text encoder's for WAN."""

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.settings import SettingsError
from orchestrator.legacy.enhance.job_types import Family

CLIP_MERGES = 49152 - 256 - 2
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_PACKAGE, CLIP_FILE = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
PIECE = 4  # letters that an estimate takes for one token

Count = Callable[[str], int]


class Counters:
    """One counter for each family, CLIP's made when first used. `names` says what each counts with."""

    def __init__(self, wan_tokenizer: Path | None) -> None:
        """Raises SettingsError where the tokenizer's file cannot be read."""
        self._wan_tokenizer = wan_tokenizer
        self._made: dict[Family, Count] = {"wan": _from_file(wan_tokenizer) if wan_tokenizer else estimate}

    @property
    def names(self) -> dict[str, str]:
        wan = str(self._wan_tokenizer) if self._wan_tokenizer else "estimate (set WAN_TOKENIZER)"
        return {"sdxl": "clip", "wan": wan, "chat": "words"}

    def of(self, family: Family) -> Count:
        """Raises ValueError where CLIP's vocabulary is not installed."""
        if family not in self._made:
            self._made[family] = _counter(clip()) if family == "sdxl" else (lambda text: len(text.split()))
        return self._made[family]


def _from_file(file: Path) -> Count:
    from tokenizers import Tokenizer

    try:
        return _counter(Tokenizer.from_str(file.read_text("utf-8")))
    except Exception as exc:  # the library raises nothing narrower
        raise SettingsError(f"WAN_TOKENIZER: {file}: {exc}") from exc


def estimate(text: str) -> int:
    """A count that errs on the high side for English: a token for each PIECE letters or part of them, for each digit,
    and for each other character. Used for WAN where its tokenizer's file is not at hand."""
    found = 0
    for word in text.split():
        letters = 0
        for character in word:
            if character.isascii() and character.isalpha():
                letters += 1
            else:
                found += 1
        found += -(-letters // PIECE)
    return found


def clip() -> Any:
    """CLIP's tokenizer from its published merges. It adds no start and end: SDXL's 77 places are 75 and these two."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    pairs = [(first, second) for first, second in map(str.split, _merges())]
    letters = list(_byte_letters())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs)]
    vocabulary = {word: number for number, word in enumerate(words)}
    model = models.BPE(vocabulary, pairs, end_of_word_suffix="</w>", continuing_subword_prefix="", fuse_unk=False)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def _counter(tokenizer: Any) -> Count:
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _merges() -> list[str]:
    spec = importlib.util.find_spec(CLIP_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ValueError("open-clip-torch is not installed: `make install`")
    with gzip.open(Path(folders[0]) / CLIP_FILE, "rt", encoding="utf-8") as lines:
        return lines.read().split("\n")[1 : CLIP_MERGES + 1]


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [number for number in range(256) if number not in printable]
    return [chr(number) for number in printable] + [chr(256 + at) for at in range(len(others))]

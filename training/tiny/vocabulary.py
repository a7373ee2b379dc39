"""The tokenizer: whole words, synonyms folded to one word, and everything else left out.

The model knows few words. A word that it does not know is dropped before it becomes a token, so a long
sentence from a chat model arrives as the words that matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from training.tiny import scenes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# As Qwen3's template frames a message; "user" and "assistant" are not in the vocabulary and leave no token.
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GLUE = ("and", "left", "right", "of", "on", "background", "hair", "skin", "shirt", "flat", "3d", "bald")
_SYNONYMS = {
    "and": ("beside", "next to", "near", "with", "together with", "plus"),
    "left of": ("left from",),
    "right of": ("right from",),
    "background": ("backdrop", "wall", "behind"),
    "gray": ("grey", "silver"),
    "purple": ("violet", "lilac"),
    "red": ("ginger", "scarlet", "auburn"),
    "blond": ("blonde", "golden"),
    "3d": ("three dimensional", "glossy", "rendered"),
    "flat": ("vector", "two dimensional", "2d"),
    "woman": ("girl", "lady", "female", "women", "she"),
    "man": ("boy", "guy", "male", "men", "he", "gentleman"),
    "smiling": ("smile face", "happy", "cheerful", "friendly", "grinning", "joyful"),
    "laughing": ("laugh", "excited"),
    "sad": ("frowning", "unhappy", "upset"),
    "surprised": ("shocked", "astonished", "amazed"),
    "sleeping": ("asleep", "closed eyes", "eyes closed"),
    "winking": ("wink",),
    "sunglasses": ("shades", "dark glasses"),
    "beard": ("bearded",),
    "mustache": ("moustache",),
    "beanie": ("woolly hat", "wool hat"),
    "bob": ("bob cut",),
    "curly": ("wavy", "curls", "afro"),
    "bun": ("hair bun", "ponytail"),
    "buzzcut": ("buzz cut", "shaved", "crew cut"),
    "tan": ("olive", "tanned", "medium"),
    "light": ("pale", "fair", "white skinned"),
    "shirt": ("sweater", "hoodie", "top", "jumper", "blouse", "jacket"),
}


def words() -> tuple[str, ...]:
    """Every word that is a token, nouns first, each once."""
    nouns = [thing.word for thing in scenes.things()]
    people = ["woman", "man", *scenes.WOMEN_HAIR, *scenes.MEN_HAIR, *scenes.HAIR_COLOURS, *scenes.SKINS]
    people += [*scenes.MOUTHS, *scenes.EYES, *scenes.BEARDS, *scenes.SHIRTS]
    known = [*nouns, *scenes.BACKGROUNDS, *_GLUE, *people]
    return tuple(dict.fromkeys(word for word in known if word))


def synonyms() -> dict[str, str]:
    """From what may be written to the word that stands for it."""
    folded = {other: thing.word for thing in scenes.things() for other in thing.synonyms}
    folded |= {other: word for word, others in _SYNONYMS.items() for other in others}
    return {other: word for other, word in folded.items() if other != word}


def tokenizer() -> PreTrainedTokenizerFast:
    """Loads again by AutoTokenizer from what it saves."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, *words()))}
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=SPECIAL[0]))
    backend.normalizer = normalizers.Sequence(_normalizers())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        padding_side="right",
        model_max_length=1024,
        chat_template=_TEMPLATE,
    )


def _normalizers() -> list[object]:
    from tokenizers import Regex
    from tokenizers.normalizers import NFKD, Lowercase, Replace, StripAccents

    nouns = {thing.word for thing in scenes.things()}
    steps: list[object] = [NFKD(), StripAccents(), Lowercase(), Replace(Regex("[^a-z0-9]+"), " ")]
    steps.append(Replace(Regex(r"\b(?:a|an|the|this|that|some|very)\b"), " "))
    steps.append(Replace(Regex(" +"), " "))
    # Longer phrases first: a hot dog is no dog.
    folded = sorted(synonyms().items(), key=lambda pair: (-len(pair[0]), pair[0]))
    steps += [Replace(Regex(rf"\b{re.escape(other)}(?:s|es)?\b".replace("\\ ", " ")), word) for other, word in folded]
    known = "|".join(sorted(words(), key=len, reverse=True))
    steps.append(Replace(Regex(rf"\b(?!(?:{known})(?:s|es)?\b)[a-z0-9]+\b"), " "))
    steps += [Replace(Regex(rf"\b{word}(?:s|es)\b"), word) for word in sorted(nouns) if not word.endswith("s")]
    return steps

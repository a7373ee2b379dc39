"""How good an enhanced prompt is, 0 to 1, by a formula that is written down (docs/enhancement.md). Pure.

    score = w_checks x checks + w_length x length + w_subject x subject + w_form x form

checks: the share of the job type's checks that the text passes. length: 1 between `least` and `target` tokens, less in
proportion outside. subject: the share of the original's words of content that are still there. form: the share of words
that do not just repeat, 0 where the text is empty. The weights are the family's; of a chat there are no checks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.legacy.enhance.job_types import Family, JobType
from orchestrator.legacy.enhance.phrases import content_words

CHECKS: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"\b(?:{words})", re.IGNORECASE)
    for name, words in {
        "quality_tags": r"masterpiece|(?:best|high|highest)[ -]quality|(?:ultra|highly|richly|finely)[ -]detailed"
        r"|award[ -]winning|professional|photo-?realistic",
        "lighting": r"\w*light|golden hour|blue hour|shadow|glow|sun(?:rise|set|lit)|neon|dusk|dawn|back-?lit",
        "technical_terms": r"\d+ ?mm\b|f/\d|lens|camera|focus|bokeh|depth of field|aperture|iso ?\d|wide[ -]angle"
        r"|close[ -]up|macro|dslr",
        "resolution": r"(?:2|4|8|16)k\b|u?hd\b|\w*resolution|\d{3,4} ?x ?\d{3,4}",
        "studio_lighting": r"studio[ -]light|key light|rim light|soft ?box|three[ -]point|fill light|strobe",
        "smooth_motion": r"smooth|fluid|steady|gentle|slow(?:ly)? |glid",
        "complex_motion": r"jump|turn|run|walk|spin|danc|climb|fall|swing|sway|ripple|step|land|reach|motion",
        "cinematography": r"camera|shot|lens|tracking|dolly|pan(?:s|ning)?\b|zoom|frame|framing|cinematic|angle|push",
        "temporal_consistency": r"consisten|continuous|without flicker|from (?:the )?(?:first|beginning|start)"
        r"|throughout|over time|stable",
        "quality": r"(?:high|best)[ -]quality|detail|sharp|crisp|4k|8k|realistic",
    }.items()
}


@dataclass(frozen=True)
class Weights:
    checks: float
    length: float
    subject: float
    form: float


WEIGHTS: dict[Family, Weights] = {
    "sdxl": Weights(0.45, 0.20, 0.25, 0.10),
    "wan": Weights(0.40, 0.25, 0.25, 0.10),
    "chat": Weights(0.0, 0.15, 0.55, 0.30),
}


def checks_of(text: str, checks: Sequence[str]) -> dict[str, bool]:
    """Which checks the text passes, by name."""
    return {name: bool(CHECKS[name].search(text)) for name in checks}


def score(original: str, text: str, job: JobType, *, tokens: int) -> float:
    """0 to 1, rounded to three places."""
    if not text.strip():
        return 0.0
    weights = WEIGHTS[job.family]
    found = checks_of(text, job.checks)
    parts = (
        weights.checks * (sum(found.values()) / len(found) if found else 1.0),
        weights.length * _length(tokens, job.least, job.target),
        weights.subject * _subject(original, text),
        weights.form * _form(text),
    )
    total = weights.checks + weights.length + weights.subject + weights.form
    return round(min(1.0, max(0.0, sum(parts) / total)), 3)


def _length(tokens: int, least: int, target: int | None) -> float:
    """Without a target any length is right. A short prompt counts in proportion to half the target, or to `least`."""
    if target is None:
        return 1.0
    if tokens > target:
        return max(0.0, 1.0 - (tokens - target) / target)
    return min(1.0, tokens / max(least, target // 2))


def _subject(original: str, text: str) -> float:
    wanted, there = set(content_words(original)), set(content_words(text))
    return len(wanted & there) / len(wanted) if wanted else 1.0


def _form(text: str) -> float:
    words = [word.strip(",.;!?").lower() for word in text.split()]
    return min(1.0, 1.5 * len(set(words)) / len(words))

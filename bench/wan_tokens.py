"""How far the estimate of WAN's tokens is from a real tokenizer: python -m bench.wan_tokens TOKENIZER.json

Best with the text encoder's own file (umt5's); any large multilingual vocabulary tells about the same. 300 made-up
video prompts; it ends with 1 where the estimate was ever too low.
"""

import random
import statistics
import sys

from tokenizers import Tokenizer

from orchestrator.legacy.enhance.tokens import estimate

PHRASES = (
    *("slow dolly shot across a rain soaked neon street at night", "smooth motion", "cinematic lighting"),
    *("volumetric fog", "shallow depth of field", "temporal consistency", "24 fps", "film grain", "golden hour"),
    *("a lighthouse keeper climbs the spiral stairs", "photorealistic", "ultra detailed", "bokeh", "chiaroscuro"),
    *("anamorphic lens", "a violin maker varnishes maple wood", "steady cam tracking", "wide angle establishing shot"),
    *("seamless transitions", "high dynamic range"),
)


def main(file: str) -> int:
    tokenizer, chance = Tokenizer.from_file(file), random.Random(1)
    prompts = [", ".join(chance.choice(PHRASES) for _ in range(chance.randrange(3, 30))) for _ in range(300)]
    ratios = [estimate(text) / len(tokenizer.encode(text, add_special_tokens=False).ids) for text in prompts]
    least, middle, most = min(ratios), statistics.median(ratios), max(ratios)
    print(f"estimate / tokens: {least:.2f} at least, {middle:.2f} in the median, {most:.2f} at most")
    return int(least < 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

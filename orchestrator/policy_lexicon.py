"""What the floor's words mean. Neutral words stand here as they are; explicit ones only as salted hashes. Pure.

A hash is the first 12 hex digits of sha256("soundstage.floor:" + word). Words beginning with `zz` are placeholders for
tests: they mean what their name says and occur in no language.
"""

import hashlib
from functools import lru_cache

MINOR, AMBIGUOUS, ADULT, AGE = 1, 2, 4, 8
EXPLICIT, NUDITY, SUGGESTIVE, ATTIRE, CLINICAL = 16, 32, 64, 128, 256
UNDRESS, NONCONSENT, REAL, INFORMATION, FICTION = 512, 1024, 2048, 4096, 8192
YOUTHFUL = 1 << 14  # an adjective of youth: ambiguous unless the same text names an adult

_WORDS: dict[int, str] = {
    MINOR: """
        child children childs childlike kid kiddo kiddie toddler infant baby babies newborn teen teenage teenager
        preteen tween underage underaged minor adolescent schoolgirl schoolboy schoolkid schoolchild schoolchildren
        kindergarten kindergartner preschool preschooler prepubescent pubescent juvenile youngster grader zzminor
    """,
    AMBIGUOUS: """
        girl boy student pupil schoolmate classmate daughter son niece nephew cheerleader babysitter pigtail
        stepdaughter stepson highschool highschooler orphan zzambiguous
    """,
    YOUTHFUL: "young younger youngest youth youthful petite babyfaced girlish boyish innocent adolescence",
    ADULT: "adult woman women man men lady gentleman wife husband grown elderly zzadult",
    AGE: "year yr yo aged age old birthday",
    NUDITY: "nude nudity nudist naked nakedness topless bottomless unclothed undressed disrobed zznudity",
    SUGGESTIVE: """
        sexy sexier sexiest sexualised sexualized seductive seductively seduce seducing sensual erotic erotica
        erotically lustful lewd kinky fetish nsfw sultry striptease lingerie aroused arousing zzsuggestive
    """,
    ATTIRE: "bikini swimsuit swimwear underwear bra panties cleavage thong zzattire",
    CLINICAL: "sex sexual sexually sexuality",
    UNDRESS: "undress undressing disrobe disrobing unclothe nudify deepnude declothe strip stripping zzundress",
    NONCONSENT: """
        nonconsensual unconsenting unwilling coerced coercing blackmailed drugged unconscious voyeur voyeuristic
        spycam zzforced
    """,
    REAL: "celebrity celeb deepfake lookalike faceswap zzreal",
    INFORMATION: """
        puberty pediatric paediatric pediatrician paediatrician hygiene vaccine vaccination diagnosis symptom guidance
        victim survivor hotline prevention prevent safeguarding legislation museum painting sculpture renaissance
        anatomy medical medicine clinical health education educational exhibition fresco gallery curriculum
    """,
    FICTION: "story roleplay fantasy fanfic fanfiction scene character pretend imagine novel photorealistic",
}

_HASHED: dict[int, str] = {
    EXPLICIT: """
        029a4e9cfddd 0c086705653e 136a13c4fbe1 13f9ab366f1e 143002cb43e6 1624cf484da8 1d16e4a269c5 1ec322a94e15
        2938517659d7 3503bf6d8ec0 388b82eaedbd 3a7aaa91eaf9 3d614ce32e87 416f709e7763 481b1587f50a 4a55d02ccc5f
        4b0de8c644ff 4e58a9af4bdf 507796d41720 645aff038154 65e244639b92 75388dd06a76 7948edb972cc 7b6589729473
        818ebad48d28 81f957c29b38 884f2ea3eb0a 8862c340ecf7 88b42c4fe856 8daf83a4cb55 984dad1ff39f 9d5c599a0088
        9e69afee083e a0e2f3766b2b a3e8408bfd44 a70effca61b3 b8ebc2717cce ba69556c8c46 bb12ae93f374 c0850292acae
        dc30b4cbc3f5 dd5194237c42 dee5edc94153 df0b5e5cd6dc e048835eae6a e41af0545425 e82f90e12909 f08bea075ebf
        f3091375f593 f7c0b272bf77 fb65116b28f6
    """,
    CLINICAL: """
        0c68f577666f 0d256079c5a9 10b1ca4e3f20 19c559bd07e6 38e55043c5dc 6f301d1c7cdf 7457788edb34 75d25d694a3b
        88e4e1b80fb5 8a0151fb2106 8e65de091cd5 928fd3cbfc51 9a0a1fe44053 ade53b063e07 bc480f240146 bf449e313690
        e736ac139f97 eff92deec8c0
    """,
    MINOR | EXPLICIT: """
        081e026a2a09 0a30f9dc8e5e 1899d9191b2c 299ab61f48e4 3190c032d8a9 4214edc6565b 49fab31e3642 6f2e33ae5167
        88fdb8a131ce 9a2dc7780d9a a196f779f55e d4a2c9971fcd df8494126140
    """,
    NONCONSENT | EXPLICIT: """
        18d3b45053b9 2f0258f818e9 3b6b1799df06 552ea821c974 56e53f2387eb 59670e2b8d5b 687587cf82f5 80e7061a979f
        818ebad48d28 b1e14da91dcf
    """,
}

# Several words that mean something together.
_PHRASES: dict[int, tuple[str, ...]] = {
    MINOR: (
        "high school",
        "middle school",
        "elementary school",
        "primary school",
        "grade school",
        "barely legal",
        "little girl",
        "little boy",
        "young girl",
        "young boy",
        "under eighteen",
        "year old boy",
        "year old girl",
    ),
    NUDITY: (
        "without clothes",
        "without clothing",
        "no clothes",
        "no clothing",
        "birthday suit",
        "wearing nothing",
        "nothing on",
        "in the buff",
        "without a top",
        "without any clothes",
        "bare breasts",
        "bare chested woman",
    ),
    SUGGESTIVE: ("make love", "making love", "turned on", "bedroom eyes", "adult content", "adult scene"),
    UNDRESS: (
        "remove clothes",
        "remove clothing",
        "remove her",
        "take off her",
        "take off his",
        "take her clothes",
        "take his clothes",
        "remove the clothes",
        "remove the dress",
        "remove the shirt",
        "see through clothes",
        "x ray clothes",
        "clothes removed",
        "clothes off",
        "without her clothes",
        "without his clothes",
    ),
    NONCONSENT: (
        "without consent",
        "without her consent",
        "without his consent",
        "without their consent",
        "against her will",
        "against his will",
        "against their will",
        "non consensual",
        "hidden camera",
        "passed out",
        "revenge photo",
        "did not consent",
        "does not consent",
        "while she sleeps",
        "while he sleeps",
        "without her knowing",
        "without his knowing",
    ),
    REAL: (
        "real person",
        "real woman",
        "real man",
        "my ex",
        "my boss",
        "my neighbor",
        "my neighbour",
        "my teacher",
        "my coworker",
        "my colleague",
        "my classmate",
        "my friend",
        "my roommate",
        "my cousin",
        "my sister",
        "my brother",
        "my mother",
        "my aunt",
        "this photo",
        "this picture",
        "this person",
        "this woman",
        "this man",
        "the photo",
        "uploaded photo",
        "face swap",
        "famous actress",
        "famous actor",
        "famous singer",
        "pop star",
        "prime minister",
        "the president",
        "look alike",
        "looks exactly like",
    ),
    INFORMATION: ("art history", "talk to", "talk with", "explain to", "support for", "support group", "oil painting"),
}

# Everyday phrases whose words mean nothing else in them.
_HARMLESS = """
    naked eye, naked mole rat, naked mole rats, naked truth, naked option, naked call, naked dress, nude lipstick,
    nude colour, nude color, nude shade, nude heels, nude tone, nude tones, nude nail, nude makeup, nude mouse,
    nude mice,
    sex education, sex chromosome, sex chromosomes, sex ratio, sex hormone, sex hormones, sex linked, same sex,
    opposite sex, biological sex, sexual reproduction, sexual health, sexual orientation, sexual dimorphism,
    sexual selection, sexual harassment, sexual assault, sexual abuse, sexually transmitted, sexual education,
    minor key, minor chord, minor chords, minor scale, minor injury, minor injuries, minor league, minor issue,
    minor change, minor changes, minor bug, minor version, minor third, minor planet, a minor, c minor,
    d minor, e minor, g minor, asia minor, ursa minor, canis minor, minor detail, minor details, minor repair,
    minor surgery,
    baby carrots, baby spinach, baby blue, baby steps, baby powder, baby grand, kid gloves, child process,
    child processes, child node, child nodes, child theme, child element, child class, strip mall, comic strip,
    led strip, strip of, strips of, strip the, strip whitespace, strip mine, gaza strip, strip steak, bacon strips,
    film strip, test strip, wire strip, chicken breast, chicken breasts, duck breast, breast cancer, breast milk,
    breast feeding, turkey breast, breast stroke, breast pocket, old master, old masters, old town, innocent until,
    infant mortality
"""

# The same for pairs with an explicit word in them (names, birds, titles): hashes of "first second".
_HARMLESS_HASHED = """
    00d5b6f4ce86 089a6e845917 128ab6159401 19de7999f86c 20e3d5e71612 22b0b38251a1 30a2a0fb7226 33cd753896fe
    3e9882ce3649 4470086dc592 4539403443b1 53105cdc235d 5afe93cd18cb 5f4c57485870 6f862adbfa30 77b538236512
    8069de98ef22 87a64f4700be 8a77b20e8523 bd186b08d9a7 c185551c1317 cde785b63521 ce4100920add e4eb030184d7
    e8d4afd0d01b e968953d29f8 f6add890efbe f90106a05787 fd79a43cdf94
"""
HARMLESS_PAIRS = frozenset(_HARMLESS_HASHED.split())


def hashed(word: str) -> str:
    """How an explicit word is written here."""
    return hashlib.sha256(b"soundstage.floor:" + word.encode()).hexdigest()[:12]


def _words() -> tuple[dict[str, int], dict[str, int]]:
    plain: dict[str, int] = {}
    for flags, words in _WORDS.items():
        for word in words.split():
            plain[word] = plain.get(word, 0) | flags
    hashes: dict[str, int] = {}
    for flags, digests in _HASHED.items():
        for digest in digests.split():
            hashes[digest] = hashes.get(digest, 0) | flags
    return plain, hashes


def _phrases() -> dict[tuple[str, str], list[tuple[tuple[str, ...], int]]]:
    """By their first two words: the others and the flags, the longest first."""
    listed = [(phrase, flags) for flags, group in _PHRASES.items() for phrase in group]
    listed += [(phrase, 0) for phrase in _HARMLESS.split(",")]
    found: dict[tuple[str, str], list[tuple[tuple[str, ...], int]]] = {}
    for phrase, flags in listed:
        first, second, *rest = phrase.split()
        found.setdefault((first, second), []).append((tuple(rest), flags))
    for group in found.values():
        group.sort(key=lambda entry: -len(entry[0]))
    return found


PLAIN, HASHES = _words()
PHRASES = _phrases()


@lru_cache(maxsize=1 << 16)
def meaning(word: str) -> int:
    """The flags of a word, by itself or else by one of its stems."""
    for form in _forms(word):
        flags = PLAIN.get(form, 0) | HASHES.get(hashed(form), 0)
        if flags:
            return flags
    return 0


def _forms(word: str) -> tuple[str, ...]:
    """The word, then its stems: plural, past, -ing."""
    if len(word) < 4 or len(word) > 32:
        return (word,)
    forms = [word]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    for ending in ("s", "es", "ed", "ing"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)]
            forms += [stem, stem + "e"] if ending in ("ed", "ing") else [stem]
            if len(stem) > 3 and stem[-1] == stem[-2]:
                forms.append(stem[:-1])
    return tuple(forms)

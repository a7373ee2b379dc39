"""What the floor's words mean. Neutral words stand here as they are; explicit ones only as keys and hashes. Pure.

An explicit word is written as `keys:hash`: the keys of a telephone that spell it, by which Aho-Corasick finds what may
be it, and the first 12 hex digits of sha256("soundstage.floor:" + word), by which it is known. In both an i counts as
an l, for in disguise the one stands for the other; `entry_of` says how a word is written. Words beginning with `zz` are
placeholders for tests: they mean what their name says and occur in no language.
"""

import hashlib
from collections.abc import Iterator
from functools import lru_cache

MINOR, AMBIGUOUS, ADULT = 1, 2, 4
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
        2264575:27ebbd2360c8 2376:f3091375f593 2569562:88b42c4fe856 26257:bb12ae93f374 2625:b8ebc2717cce
        2625:fb65116b28f6 26627:e048835eae6a 2663243:f08bea075ebf 27326753:991d3b0b05f1 2855253:481b1587f50a
        28665556487:fcd0efe09da9 2866564:868e3a603369 2867468:8862c340ecf7 2868:645aff038154 286:dee5edc94153
        3337847628:136a13c4fbe1 33552856:e2eafaa1f6ba 3525:f29b6570232e 35536:d7934ca19200 3668562:c0850292acae
        382533:81f957c29b38 382537:1624cf484da8 3825564:f739f11765a7 3825:a70effca61b3 4263562:1d16e4a269c5
        42642264:3a7aaa91eaf9 436825:b96d0fcec055 46769:4b0de8c644ff 5599:3ac385bd1392 6278872283:8daf83a4cb55
        627887228564:fddc9139b7f0 627887228566:3125c9644607 6553:e8d22d158bb9 66593267:029a4e9cfddd
        674276:0c086705653e 6749:9d5c599a0088 756562:707605c1bedc 7588:dc30b4cbc3f5 767664727452:408fcecbd39b
        76766472749:4e58a9af4bdf 76766:388b82eaedbd 7676:df0b5e5cd6dc 778578564:016d6e5cd760 78779:e82f90e12909
        847337663:3d614ce32e87 8587:d541782cda12 8588537:1394d4d88599 94673:9e69afee083e 9939755258:b893ebb90792
        999:2938517659d7
    """,
    CLINICAL: """
        25586757:b19551fca62a 2687:10b1ca4e3f20 273278:88e4e1b80fb5 273652:ade53b063e07 2888625:8e65de091cd5
        35228528566:e188e75039d3 37328566:a46371f20e44 436582552:3380a015ac6f 4365825:cb9e043a15b3 52252:cb112b81b4e6
        657753:ea588e880edd 7276886:e736ac139f97 73636:75d25d694a3b 73657:43f10d86d823 824562:bf66129fe2ca
        83785253:b5cc706debe1 88582:bc480f240146 9925565225:5fbcd87cb018
    """,
    MINOR | EXPLICIT: """
        245537676:db30e1c86296 2726:a196f779f55e 52552258:ab87593a9bdf 5533537676:8259e390d363 5655266:a573efe0a746
        5655:3070f97f4565 7233674553:eb0ee7dd6444 733674553:630e3e40ac59 7336745552:32feafe8d068
        7336745552:a3c7097cff5c 7336:88fdb8a131ce 74682266:4214edc6565b 74682:d4a2c9971fcd
    """,
    NONCONSENT | EXPLICIT: """
        66537828566:2adac6569607 66537833:18d3b45053b9 665378564:1805350c4ad5 665378:3b6b1799df06 72733:687587cf82f5
        7273:552ea821c974 727564:7b804971ae03 727578:6b2920413065 8775578:683bf4fab32a 996662667368:2f0258f818e9
    """,
}

# Several words that mean something together.
_PHRASES: dict[int, str] = {
    MINOR: """
        high school, middle school, elementary school, primary school, grade school, barely legal, little girl,
        little boy, young girl, young boy
    """,
    NUDITY: """
        without clothes, without clothing, no clothes, no clothing, birthday suit, wearing nothing, nothing on,
        in the buff, without a top, without any clothes, bare breasts, bare chested woman
    """,
    SUGGESTIVE: "make love, making love, turned on, bedroom eyes, adult content, adult scene",
    UNDRESS: """
        remove clothes, remove clothing, remove her, take off her, take off his, take her clothes, take his clothes,
        remove the clothes, remove the dress, remove the shirt, see through clothes, x ray clothes, clothes removed,
        clothes off, without her clothes, without his clothes
    """,
    NONCONSENT: """
        without consent, without her consent, without his consent, without their consent, against her will,
        against his will, against their will, non consensual, hidden camera, passed out, revenge photo,
        did not consent, does not consent, while she sleeps, while he sleeps, without her knowing, without his knowing
    """,
    REAL: """
        real person, real woman, real man, my ex, my boss, my neighbor, my neighbour, my teacher, my coworker,
        my colleague, my classmate, my friend, my roommate, my cousin, my sister, my brother, my mother, my aunt,
        this photo, this picture, this person, this woman, this man, the photo, uploaded photo, face swap,
        famous actress, famous actor, famous singer, pop star, prime minister, the president, look alike,
        looks exactly like
    """,
    INFORMATION: "art history, talk to, talk with, explain to, support for, support group, oil painting",
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

INNOCENT = frozenset(b"anais boles giri loll oid".split())
"""Words that only look like others, because an i counts as an l."""

_KEYS = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz", b"22233344555566677778889999")
_FOLD = bytes.maketrans(b"i", b"l")
ENDINGS = ("s", "es", "ed", "lng")
MOST_LETTERS = 32


def fold(words: bytes) -> bytes:
    """The words with every i as an l."""
    return words.translate(_FOLD)


def keys(words: bytes) -> bytes:
    """The telephone keys that spell folded words."""
    return words.translate(_KEYS)


def entry_of(word: str) -> str:
    """How an explicit word is written here."""
    plain = fold(word.encode())
    return f"{keys(plain).decode()}:{hash_of(plain.decode())}"


def hash_of(words: str) -> str:
    """The hash of a folded word, or of a pair of words."""
    return hashlib.sha256(b"soundstage.floor:" + words.encode()).hexdigest()[:12]


def _neutral() -> dict[str, int]:
    found: dict[str, int] = {}
    for flags, words in _WORDS.items():
        for word in fold(words.encode()).decode().split():
            found[word] = found.get(word, 0) | flags
    return found


def _explicit() -> tuple[dict[str, int], frozenset[str]]:
    """The flags by hash, and the keys."""
    found: dict[str, int] = {}
    spelt: set[str] = set()
    for flags, entries in _HASHED.items():
        for entry in entries.split():
            pressed, digest = entry.split(":")
            spelt.add(pressed)
            found[digest] = found.get(digest, 0) | flags
    return found, frozenset(spelt)


NEUTRAL = _neutral()
HASHES, EXPLICIT_KEYS = _explicit()
PHRASES = [
    (" ".join(phrase.split()), flags)
    for flags, phrases in (*_PHRASES.items(), (0, _HARMLESS))
    for phrase in phrases.split(",")
]


@lru_cache(maxsize=1 << 16)
def meaning(word: str) -> int:
    """The flags of a folded word, by itself or else by one of its stems."""
    for form in _forms(word):
        flags = NEUTRAL.get(form, 0) | HASHES.get(hash_of(form), 0)
        if flags:
            return flags
    return 0


def _forms(word: str) -> tuple[str, ...]:
    """The word, then its stems: plural, past, -ing."""
    if len(word) < 4 or len(word) > MOST_LETTERS:
        return (word,)
    forms = [word]
    if word.endswith("les"):  # or -ies
        forms.append(word[:-3] + "y")
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)]
            forms += [stem, stem + "e"] if ending in ("ed", "lng") else [stem]
            if len(stem) > 3 and stem[-1] == stem[-2]:
                forms.append(stem[:-1])
    return tuple(forms)


def neutral_forms() -> list[str]:
    """Every neutral word with every ending that it is known by, folded."""
    return sorted({form for word in NEUTRAL for form in _with_endings(word, ENDINGS, "e", "y", "les") if meaning(form)})


def explicit_keys() -> list[str]:
    """The keys of every explicit word with every ending; and of some that are none."""
    e, y, *others = (keys(part.encode()).decode() for part in ("e", "y", "les", *ENDINGS))
    return sorted({form for word in EXPLICIT_KEYS for form in _with_endings(word, others[1:], e, y, others[0])})


def _with_endings(word: str, endings: tuple[str, ...] | list[str], e: str, y: str, les: str) -> Iterator[str]:
    yield word
    if word.endswith(y):
        yield word[:-1] + les
    for ending in endings:
        yield word + ending
        yield word + word[-1] + ending
        if word.endswith(e):
            yield word[:-1] + ending

"""Random names of requests and runs: 96 bits in hexadecimal. One call to the system serves many of them."""

import os

DIGITS, AT_ONCE = 24, 128
_drawn: list[str] = []


def new_id() -> str:
    """24 hexadecimal digits. Threads may ask at once: each name is taken from the list once."""
    try:
        return _drawn.pop()
    except IndexError:
        digits = os.urandom(AT_ONCE * DIGITS // 2).hex()
        _drawn.extend(digits[at : at + DIGITS] for at in range(DIGITS, len(digits), DIGITS))
        return digits[:DIGITS]

"""Random names of requests and runs: 96 bits in hexadecimal."""

import os


def new_id() -> str:
    """24 hexadecimal digits."""
    return os.urandom(12).hex()

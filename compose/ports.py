"""The ports of `make up`, checked before anything is installed or started. Standard library only."""

import os
import socket
import sys

DEFAULTS = {"PORT": 8000, "CHAT_PORT": 7861, "IMAGE_PORT": 8001, "SELFIE_PORT": 8003}


def chosen() -> dict[str, int]:
    """Port by name, from the environment. Exits with a sentence where one is not a port."""
    found = {}
    for name, default in DEFAULTS.items():
        text = os.environ.get(name) or str(default)
        if not (text.isascii() and text.isdigit()) or not 0 < int(text) < 65536:
            sys.exit(f"{name}={text} is not a port.")
        found[name] = int(text)
    taken = sorted(found.values())
    if len(set(taken)) < len(taken):
        sys.exit("Two services would use one port: " + ", ".join(f"{name}={port}" for name, port in found.items()))
    return found


def check(ports: dict[str, int], host: str) -> None:
    """Exit with a sentence if any is taken."""
    for name, port in ports.items():
        bound = host if name == "PORT" else "127.0.0.1"
        family = socket.AF_INET6 if ":" in bound else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((bound, port))
            except OSError as exc:
                sys.exit(f"Port {port} cannot be used ({exc.strerror}). Stop what uses it, or choose another: {name}=…")


if __name__ == "__main__":
    check(chosen(), os.environ.get("HOST") or "127.0.0.1")

"""Structured logs: one JSON object a line on stderr, or plain text for a person. Secrets never get here."""

import json
import logging
import sys
import time
from typing import Any

import msgspec

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonFormatter(logging.Formatter):
    """A record and its `extra` fields as one line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in record.__dict__.items():
            if key not in _OWN:
                line[key] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=_text).decode()
        except UnicodeEncodeError:  # a lone surrogate, as in a file name that is not UTF-8
            return json.dumps(line, default=_text)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{k}={_text(v)}" for k, v in record.__dict__.items() if k not in _OWN)
        return f"{super().format(record)} {fields}".rstrip()


def _text(value: object) -> str:
    """An exception that says nothing, as a timeout, is at least named."""
    return str(value) or type(value).__name__ if isinstance(value, BaseException) else str(value)


def configure(level: str, style: str) -> None:
    """Send every logger of the process to stderr in one form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if style == "json" else TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx2", "httpcore2", "openai"):
        logging.getLogger(noisy).handlers[:] = []
        logging.getLogger(noisy).propagate = True
    for quiet in ("uvicorn.access", "httpx2", "httpcore2", "openai", "psycopg.pool"):
        logging.getLogger(quiet).setLevel(logging.WARNING)

"""Structured logs: one line a record, whatever the record holds."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import logs
from core.logs import JsonFormatter, TextFormatter


def record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    return logging.getLogger("a.b").makeRecord("a.b", logging.WARNING, "f.py", 1, message, args, None, extra=extra)


def line(of: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(of)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_record_is_one_json_object() -> None:
    made = record("found %d", 3, worker="w-1")
    made.created, made.msecs = 1_700_000_000.25, 250.0
    assert line(made) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "a.b",
        "message": "found 3",
        "worker": "w-1",
    }


ODD: dict[str, tuple[object, object]] = {
    "a path": (Path("a/b"), "a/b"),
    "an exception": (ValueError("no"), "no"),
    "an exception that says nothing": (TimeoutError(), "TimeoutError"),
    "nested": ({"a": [1, None]}, {"a": [1, None]}),
    "new lines": ("a\nb\x00", "a\nb\x00"),
    "not a number": (float("nan"), None),
    "a lone surrogate": ("caf\udce9", "caf\udce9"),
}


@pytest.mark.parametrize(("value", "shown"), ODD.values(), ids=ODD.keys())
def test_any_extra_value_can_be_written(value: object, shown: object) -> None:
    assert line(record("m", value=value))["value"] == shown


def test_a_message_that_is_not_unicode_is_not_lost() -> None:
    assert line(record("caf\udce9"))["message"] == "caf\udce9"


def test_an_exception_comes_with_its_traceback() -> None:
    made = record("m")
    try:
        raise KeyError("inside")
    except KeyError:
        made.exc_info = sys.exc_info()
    assert "KeyError: 'inside'" in line(made)["exception"]


def test_text_is_for_a_person() -> None:
    assert TextFormatter("%(levelname)s %(message)s").format(record("m", worker="w-1")) == "WARNING m worker=w-1"
    assert TextFormatter("%(message)s").format(record("m")) == "m"


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    """Logging is the process's: what `configure` changes is put back."""
    names = [None, "uvicorn", "uvicorn.error", "uvicorn.access", "httpx2", "httpcore2", "openai", "psycopg.pool"]
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("_logging_restored")
def test_every_logger_writes_one_form_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("uvicorn.error").info("from a library")
    logging.getLogger("httpx2").info("a URL with a secret: not wanted")
    logging.getLogger("core").debug("too fine")
    out, err = capsys.readouterr()
    assert out == ""
    assert [json.loads(text)["message"] for text in err.splitlines()] == ["from a library"]

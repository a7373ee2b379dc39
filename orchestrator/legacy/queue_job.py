"""A job as a queue carries it."""

from typing import Any

import msgspec

from core.errors import Unprocessable

MAX_BYTES = 1 << 20


class Job(msgspec.Struct):
    """Other fields may stand beside these; they are left alone."""

    id: str
    job_type: str
    payload: dict[str, Any]


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def read(text: str) -> Job:
    """Raises Unprocessable. In a stream `payload` may be JSON inside the field; `data` is another name of it."""
    if len(text) > MAX_BYTES:
        raise Unprocessable("The job is larger than 1 MiB.", code="job_too_large")
    try:
        given = _decode(text)
        payload = given.get("payload", given.get("data", {}))
        payload = _decode(payload) if isinstance(payload, str) else payload
        job = msgspec.convert({"id": given.get("id"), "job_type": given.get("job_type"), "payload": payload}, Job)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, RecursionError) as exc:
        raise Unprocessable(f"A job is {{id, job_type, payload}}: {exc}", code="invalid_job") from exc
    if not 0 < len(job.id) <= 200 or "\x00" in job.id:
        raise Unprocessable("A job's id has 1 to 200 characters, none of them NUL.", code="invalid_job", param="id")
    return job

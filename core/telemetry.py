"""Libraries tell their makers nothing of a service: it is a promise, and some do so unless they are told."""

import os

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: an id of the machine and events, from its import on
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def off() -> None:
    """For this process and those that it starts. Before any of these libraries is imported."""
    os.environ.update(OFF)

"""No core files: what a process held in memory, pictures and prompts, must not reach a disk when it crashes."""

import contextlib


def none_left() -> None:
    """For this process and those that it starts. Where the system has no such bound, nothing happens."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

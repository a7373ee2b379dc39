"""What `make up` prints: one line for each part that becomes ready, with its seconds, and signs of life meanwhile."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table


class Show:
    """Lines for a pipe; on a terminal also a spinner for each part that is still starting."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._doing: dict[str, float] = {}
        self._live: Live | None = None

    def line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def piece(self, text: str) -> None:
        """Part of a line, shown at once."""
        self._console.print(text, end="", markup=False)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show that `what` is under way; several may be at once."""
        started = self._doing[what] = time.monotonic()
        if not self._console.is_terminal:
            self.line(f"… {what}")
        elif self._live is None:
            self._live = Live(get_renderable=self._table, console=self._console, transient=True, refresh_per_second=8)
            self._live.start()
        try:
            yield
            self.line(f"✓ {what} ({time.monotonic() - started:.1f} s)")
        finally:
            del self._doing[what]
            if not self._doing and self._live is not None:
                self._live.stop()
                self._live = None

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for what, started in self._doing.items():
            table.add_row(Spinner("dots"), f"{what} … {time.monotonic() - started:.0f} s")
        return table

"""Progress bars on a terminal, plain lines elsewhere.

Bars and lines go to standard error, so that standard output contains only the tables.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

Update = Callable[[int, str], None]


class Progress:
    """Display of the progress of each stage of a report."""

    def __init__(self, console=None):
        """Write to a `rich.console.Console`, by default a new one on standard error."""
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False) if console is None else console

    def say(self, line: str) -> None:
        """Print one line of plain text, never wrapped and never colored."""
        self.console.print(line, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Update]:
        r"""Show one stage of `total` units of work, as a bar or, without a terminal, as one line at its end.

        Args:
            title: name of the stage, one or two words.
            total: number of units.

        Yields:
            A function `update(completed, note)`, to be called after each part of the work.

        Example:
            >>> import io
            >>> from rich.console import Console
            >>> progress = Progress(Console(file=io.StringIO()))
            >>> with progress.stage("count", total=3) as update:
            ...     update(3, "all of them")
            >>> progress.console.file.getvalue()
            'count: all of them (... s)\n'
        """
        start, latest = time.perf_counter(), ""
        with self._bar() as bar:
            task = bar.add_task(title, total=total, note="")

            def update(completed: int, note: str) -> None:
                nonlocal latest
                latest = note
                bar.update(task, completed=completed, note=note)

            yield update
        if not self.console.is_terminal:
            self.say(f"{title}: {latest} ({time.perf_counter() - start:.1f} s)")

    def _bar(self):
        from rich import progress
        from rich.table import Column

        # The columns add up to 80 characters with a note of 46.
        return progress.Progress(
            progress.TextColumn("{task.description:<9}", table_column=Column(no_wrap=True)),
            progress.BarColumn(bar_width=14),
            progress.TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

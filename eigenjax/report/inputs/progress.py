"""Progress bars for a person at a terminal, plain lines for everything else.

Bars and lines go to standard error, so that a table on standard output can be kept by itself.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

Update = Callable[[int, str], None]


class Progress:
    """Tells how far each stage of the work is; silent about stages that never started."""

    def __init__(self, console=None):
        """Writes to a `rich.console.Console`, by default a new one on standard error."""
        from rich.console import Console

        self.console = Console(stderr=True, highlight=False) if console is None else console

    def say(self, line: str) -> None:
        """One line of plain text, never wrapped and never coloured."""
        self.console.print(line, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Update]:
        r"""Shows one stage of `total` pieces of work, as a bar or, without a terminal, as one line at its end.

        Args:
            title: a word or two.
            total: how many pieces.

        Yields:
            `update(completed, note)`, to be called now and then.

        Example:
            >>> import io
            >>> from rich.console import Console
            >>> progress = Progress(Console(file=io.StringIO()))
            >>> with progress.stage("count", total=3) as update:
            ...     update(3, "all of them")
            >>> progress.console.file.getvalue()
            'count: all of them (0.0 s)\n'
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

        # Together 80 columns, with notes of up to 46.
        return progress.Progress(
            progress.TextColumn("{task.description:<9}", table_column=Column(no_wrap=True)),
            progress.BarColumn(bar_width=14),
            progress.TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            progress.TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

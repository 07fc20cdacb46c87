"""Tables of the eigenvalues on standard output, as plain text if it is a pipe or a file."""

import numpy as np

from eigenjax.report.analysis.solve import Solve
from eigenjax.result import EigenResult, Status

TITLES = {
    "LA": "the {k} largest eigenvalues",
    "SA": "the {k} lowest eigenvalues",
    "LM": "the {k} eigenvalues of largest magnitude",
    "BE": "{k} eigenvalues from both ends",
}


def print_tables(solves: dict[str, Solve], operator: str = "Hessian", console=None) -> None:
    """Print one table for each part of the spectrum, then the cost and the status of each algorithm.

    Args:
        solves: results by the name of the algorithm, each with the same groups.
        operator: name of the operator.
        console: a `rich.console.Console`; by default a new one on standard output.
    """
    from rich.console import Console

    console = Console(highlight=False) if console is None else console
    for which in next(iter(solves.values())).results:
        console.print(_table(which, {name: solve.results[which] for name, solve in solves.items()}))
    for name, solve in solves.items():
        for line in _summary(name, solve, operator):
            console.print(line, markup=False, soft_wrap=True)


def options_for(name: str, status: str) -> str:
    """Name the options of the command that the advice of a status is about.

    >>> options_for("power", "NOT_CONVERGED")
    ' (options of the command: --max-iter, --tol, --k; --algorithm lanczos omits the power iteration)'
    """
    if status != "NOT_CONVERGED":
        return ""
    omit = "; --algorithm lanczos omits the power iteration" if name == "power" else ""
    return f" (options of the command: {'--max-iter' if name == 'power' else '--krylov-dim'}, --tol, --k{omit})"


def disagreement(results: list[EigenResult]) -> np.ndarray | None:
    """Compute the difference of two algorithms' eigenvalues, (k,) relative to the larger magnitude of each two.

    Returns None unless there are two results.
    """
    if len(results) != 2:
        return None
    first, second = (np.asarray(result.eigenvalues, dtype=np.float64) for result in results)
    larger = np.maximum(np.abs(first), np.abs(second))
    return np.abs(first - second) / np.where(larger > 0, larger, 1.0)


def _table(which: str, results: dict[str, EigenResult]):
    from rich import box
    from rich.table import Table

    k = len(next(iter(results.values())).eigenvalues)
    table = Table(
        title=TITLES[which].format(k=k),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
    )
    table.add_column("", justify="right")
    for name in results:
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("residual", justify="right")
        table.add_column("converged", justify="right")
    apart = disagreement(list(results.values()))
    if apart is not None:
        table.add_column("rel diff", justify="right")
    for index in range(k):
        cells = [cell for result in results.values() for cell in _cells(result, index)]
        table.add_row(str(index + 1), *cells, *([] if apart is None else [f"{apart[index]:.1e}"]))
    return table


def _cells(result: EigenResult, index: int) -> tuple[str, str, str]:
    verdict = "yes" if result.converged[index] else "NO"
    return f"{float(result.eigenvalues[index]):.5g}", f"{float(result.residuals[index]):.1e}", verdict


def _summary(name: str, solve: Solve, operator: str) -> list[str]:
    seconds = f"{solve.seconds:.1f} s, of which {solve.compile_seconds:.1f} s compilation"
    lines = [f"{name}: {solve.num_matvecs} matvecs with the {operator} in {seconds}"]
    for which, result in solve.results.items():
        status = Status(int(result.status))
        if status is not Status.CONVERGED:
            title = TITLES[which].format(k=len(result.eigenvalues))
            lines.append(f"{name}, {title}: {status.name}: {status.advice}{options_for(name, status.name)}")
    return lines

"""Correctness of results on this device, compared with NumPy in float64 on the host, one row for each number."""

import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from benchmarks.accelerator import right_dense, right_derivatives, right_training, right_values
from benchmarks.accelerator.checks import Case
from benchmarks.accelerator.harness import Log, Row, describe

# The most important cases first.
CASES = (*right_values.FIRST, *right_derivatives.CASES, *right_training.CASES, *right_dense.CASES, *right_values.MORE)
# Cases spend most of their time compiling, and only their total time is recorded: run several at once.
_WORKERS = 8
_LAST_CASES_S = 45.0


def run(log: Log) -> None:
    """Run every case, and add the rows in the order in which the cases end."""
    pool = ThreadPoolExecutor(_WORKERS)
    running = {pool.submit(_timed, case): case for case in CASES}
    while running:
        within = None if log.args.quick else max(log.deadline.left, 0.0)
        done, _ = wait(running, timeout=within, return_when=FIRST_COMPLETED)
        if not done:
            break
        for future in done:
            _add(log, running.pop(future), future)
    # Skip cases that have not started. Wait for the others, because they would disturb the later timings.
    for future, case in list(running.items()):
        if future.cancel():
            log.add(_blank(case) | {"error": "skipped: no time left"})
            del running[future]
    done, late = wait(running, timeout=_LAST_CASES_S)
    for future in done:
        _add(log, running[future], future)
    for future in late:
        log.add(_blank(running[future]) | {"error": "not done in time"})
    pool.shutdown(wait=False, cancel_futures=True)


def _timed(case: Case) -> tuple[list[Row], float]:
    start = time.perf_counter()
    rows = [
        {"case": case.__name__, "name": check.name, "value": check.error, "bound": check.bound, "ok": check.is_right}
        for check in case()
    ]
    return rows, time.perf_counter() - start


def _add(log: Log, case: Case, future: Future) -> None:
    try:
        rows, seconds = future.result()
        for row in rows:
            log.add(row | {"case_s": seconds, "error": ""})
    except Exception as error:
        log.add(_blank(case) | {"error": describe(error)})


def _blank(case: Case) -> Row:
    return {"case": case.__name__, "name": "", "value": None, "bound": None, "ok": False, "case_s": None}

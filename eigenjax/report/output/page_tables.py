"""Numbers of a report as HTML: the summary on top, the tables of the sections, and the details of the run."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eigenjax.report.analysis.tables import TITLES, options_for

_NAMES = {"lanczos": "Lanczos", "power": "deflated power iteration"}


def summary(document: Mapping[str, Any]) -> Iterable[str]:
    """Yield the HTML of the summary: the problem, the main numbers, and the status of each solve."""
    problem, algorithms = document["problem"], document["algorithms"]
    examples = "no data" if problem["num_examples"] is None else f"{problem['num_examples']:,} examples"
    devices = f"{document['device']['count']} x {document['device']['kind']}"
    about = (
        document["arguments"]["problem"],
        f"{problem['num_parameters']:,} parameters",
        examples,
        problem["dtype"],
        devices,
    )
    yield f'<p class="about">{html.escape(", ".join(map(str, about)))}; {html.escape(document["written"])}</p>'
    yield f'<dl class="facts">{"".join(_fact(name, value) for name, value in _facts(document))}</dl>'
    yield '<ul class="verdicts">'
    for name, record in algorithms.items():
        for which, pairs in record["pairs"].items():
            mark = "good" if pairs["status"] == "CONVERGED" else "bad"
            options = options_for(name, pairs["status"])
            text = f"{_NAMES[name]}, {_title(which, pairs)}: {pairs['status']}: {pairs['advice']}{options}"
            yield f'<li class="{mark}">{html.escape(text)}</li>'
    yield "</ul>"


def of_section(name: str, document: Mapping[str, Any]) -> list[str]:
    """Return the HTML tables of a section; an empty list if it has none."""
    if name not in _TABLES:
        return []
    key, make = _TABLES[name]
    return make(document) if document[key] else []


def details(document: Mapping[str, Any]) -> Iterable[str]:
    """Yield the HTML of the details: arguments, versions, device, the parameters' leaves, and files."""
    yield '<section id="details">\n<h2>Settings and versions</h2>'
    arguments = [(name, _plain(value)) for name, value in document["arguments"].items()]
    yield table("Arguments", ("", ""), arguments, texts=2)
    yield table("Versions", ("", ""), list(document["versions"].items()), texts=2)
    yield table("Device", ("", ""), [(name, str(value)) for name, value in document["device"].items()], texts=2)
    leaves = [
        (name or "(all)", " x ".join(map(str, shape)) or "number")
        for name, shape in document["problem"]["leaves"].items()
    ]
    shapes = table("", ("", "shape"), leaves, texts=2)
    yield f"<details><summary>Parameters, {len(leaves)} arrays</summary>{shapes}</details>"
    yield f'<p class="about">Files in the same folder: {html.escape(", ".join(document["files"]))}.</p>\n</section>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], *, texts: int = 1) -> str:
    """Format an HTML table that scrolls if the page is narrower; the first `texts` columns are left-aligned text.

    >>> table("", (), [("<a>", 3)])
    '<div class="table"><table><tr><td class="text">&lt;a&gt;</td><td>3</td></tr></table></div>'
    """
    cell = lambda kind, place, value: f"<{kind}{_class(place < texts, value)}>{html.escape(str(value))}</{kind}>"
    line = lambda kind, row: f"<tr>{''.join(cell(kind, place, value) for place, value in enumerate(row))}</tr>"
    name = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    top = line("th", head) if any(head) else ""
    return f'<div class="table"><table>{name}{top}{"".join(line("td", row) for row in rows)}</table></div>'


def _class(is_text: bool, value: Any) -> str:
    names = ["text"] * is_text + ["bad"] * (value == "NO")
    return f' class="{" ".join(names)}"' if names else ""


def _facts(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    name, record = next(iter(document["algorithms"].items()))
    values = [value for pairs in record["pairs"].values() for value in pairs["eigenvalues"] if value is not None]
    flags = [flag for pairs in record["pairs"].values() for flag in pairs["converged"]]
    if values:
        yield "largest eigenvalue found", f"{max(values):.5g}"
        yield "lowest eigenvalue found", f"{min(values):.5g}"
    yield f"pairs converged, {_NAMES[name]}", f"{sum(flags)} of {len(flags)}"
    if document["problem"]["loss"] is not None:
        yield "loss", f"{document['problem']['loss']:.5g}"
    yield "matvecs, all solvers", f"{sum(each['num_matvecs'] for each in document['algorithms'].values()):,}"
    yield "total time", f"{document['seconds']:.1f} s"


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"


def _pairs(document: Mapping[str, Any]) -> list[str]:
    return [_pairs_table(which, document) for which in next(iter(document["algorithms"].values()))["pairs"]]


def _pairs_table(which: str, document: Mapping[str, Any]) -> str:
    groups = {name: record["pairs"][which] for name, record in document["algorithms"].items()}
    apart = document["relative_disagreement"][which]
    columns = ("residual", "error estimate", "converged")
    head = [
        "",
        *(text for name in groups for text in (_NAMES[name], *columns)),
        *(["relative difference"] if apart else []),
    ]
    count = len(next(iter(groups.values()))["eigenvalues"])
    rows = [
        [
            index + 1,
            *(cell for pairs in groups.values() for cell in _cells(pairs, index)),
            *([_short(apart[index])] if apart else []),
        ]
        for index in range(count)
    ]
    return table(_title(which, next(iter(groups.values()))).capitalize(), head, rows)


def _cells(pairs: Mapping[str, Any], index: int) -> tuple[str, str, str, str]:
    estimate = pairs["error_estimates"][index]
    verdict = "yes" if pairs["converged"][index] else "NO"
    return _number(pairs["eigenvalues"][index]), _short(pairs["residuals"][index]), _short(estimate), verdict


def _spent(document: Mapping[str, Any]) -> list[str]:
    rows = [
        (_NAMES[name], record["num_matvecs"], f"{record['seconds']:.1f}", f"{record['compile_seconds']:.1f}")
        for name, record in document["algorithms"].items()
    ]
    return [table("Cost of each solver", ("", "matvecs", "seconds", "of which compilation"), rows)]


def _gauss_newton(document: Mapping[str, Any]) -> list[str]:
    gauss_newton = document["gauss_newton"]["pairs"]["LA"]
    hessian_pairs = next(iter(document["algorithms"].values()))["pairs"].get("LA")
    values = hessian_pairs["eigenvalues"] if hessian_pairs else [None] * len(gauss_newton["eigenvalues"])
    rows = [(i + 1, _number(values[i]), *_cells(gauss_newton, i)) for i in range(len(gauss_newton["eigenvalues"]))]
    head = ("", "Hessian", "Gauss-Newton", "residual", "error estimate", "converged")
    cost = f"{document['gauss_newton']['num_matvecs']} matvecs with the Gauss-Newton matrix"
    summary = f"{cost}. {gauss_newton['status']}: {gauss_newton['advice']}."
    return [table("The largest eigenvalues", head, rows), f'<p class="about">{html.escape(summary)}</p>']


def _density(document: Mapping[str, Any]) -> list[str]:
    found = document["density"]
    rows = [(f"{at:.4g}", f"{share:.4f}", f"{error:.1e}") for at, share, error in found["cdf"]]
    probes = f"{len(found['nodes'])} random vectors with {len(found['nodes'][0])} Lanczos steps each"
    text = f"{found['num_matvecs']} matvecs: {probes}."
    head = ("\u03bb at most", "fraction of eigenvalues", "standard error")
    return [table("Cumulative distribution", head, rows, texts=0), f'<p class="about">{text}</p>']


def _layers(document: Mapping[str, Any]) -> list[str]:
    found = document["layers"]
    rows = [
        (
            name or "(all)",
            record["size"],
            record["num_matvecs"],
            f"{sum(record['converged'])} of {len(record['converged'])}",
            _short_value(record["eigenvalues"][0]),
            ", ".join(_short_value(value) for value in record["eigenvalues"][1:]),
        )
        for name, record in found["found"].items()
    ]
    head = ("layer", "parameters", "matvecs", "converged", "largest", "next largest")
    text = f"Omitted to limit the number of matvecs: {', '.join(found['left_out'])}." if found["left_out"] else ""
    return [table("The largest eigenvalues of each layer", head, rows), f'<p class="about">{html.escape(text)}</p>']


def _training(document: Mapping[str, Any]) -> list[str]:
    history = document["history"]
    rows = [
        (int(s), _number(loss), _number(value))
        for s, loss, value in zip(history["steps"], history["losses"], history["eigenvalues"], strict=True)
    ]
    inner = table("", ("step", "loss", "largest eigenvalue"), rows, texts=0)
    return [f"<details><summary>Table of {len(rows)} records</summary>{inner}</details>"]


def _title(which: str, pairs: Mapping[str, Any]) -> str:
    return TITLES[which].format(k=len(pairs["eigenvalues"]))


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.7g}"


def _short_value(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.5g}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "none"
    return "default" if value is None else str(value)


# By section: the key of its entry in the document, and the function that makes its tables.
_TABLES = {
    "pairs": ("algorithms", _pairs),
    "convergence": ("algorithms", _spent),
    "gauss-newton": ("gauss_newton", _gauss_newton),
    "density": ("density", _density),
    "layers": ("layers", _layers),
    "training": ("history", _training),
}

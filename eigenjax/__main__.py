"""The command line: `python -m eigenjax`, also installed as `eigenjax`."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from eigenjax.report.inputs.errors import ReportError

_EXAMPLES = """\
examples:
  eigenjax spectrum
  eigenjax spectrum --problem eigenjax.report.inputs.generated:rings
  eigenjax spectrum --problem my_package.my_module:my_problem --k 5 --out curvature

The second needs neither Flax nor scikit-learn.

A function of yours takes nothing and returns eigenjax.Problem(loss, params, data), with loss(params, data) -> scalar
the mean over the examples in the data; for the Gauss-Newton matrix and the Fisher information also model(params,
inputs) and loss_of_output(outputs, targets), with data = (inputs, targets). The folder will hold report.html, which is
the whole report as one page, spectrum.json, eigenpairs.npz and pictures.
"""

_FORMATS = ("png", "svg", "pdf")
# Limits of int32 counts in compiled programs, and of seeds without 64-bit types.
_LARGEST, _LARGEST_SEED = 2**31 - 1, 2**32 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name. None takes those of this process, and keeps compiled programs for
            later ones.

    Returns:
        The exit status: 0; 2 for an invalid request, with one line on standard error; 130 after an interrupt.

    Example:
        >>> main(["spectrum", "--k", "none"])
        2
    """
    try:
        options = vars(_parser().parse_args(argv))
        options.pop("command")
        uses_cache = options.pop("cache") and argv is None
        options["without"] = tuple(options["without"])
        # Import only after the options are checked, because this takes as long as importing JAX.
        from eigenjax.report.command import Request, report_spectrum
        from eigenjax.report.compilation_cache import keep_programs

        if uses_cache:
            keep_programs()
        report_spectrum(Request(**options))
    except ReportError as error:
        sys.stderr.write(f"eigenjax: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("eigenjax: interrupted, nothing written\n")
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        raise ReportError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="eigenjax", description="Eigenvalues of operators too large to write down.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    spectrum = commands.add_parser(
        "spectrum",
        help="the Hessian spectrum of a trained model, by two algorithms, with pictures",
        description="The top and the lowest eigenpairs of the Hessian of a loss over all its data, by Lanczos and by "
        "deflated power iteration; the density of all eigenvalues, and the spectra of its layers.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_questions(spectrum.add_argument_group("what to compute"))
    _add_methods(spectrum.add_argument_group("how to compute it"))
    return parser


def _add_questions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--problem",
        default="digits",
        metavar="NAME",
        help="digits, a network trained here and now on scikit-learn's digits, or package.module:function (digits)",
    )
    group.add_argument(
        "--operator",
        choices=("hessian", "gauss-newton", "fisher"),
        default="hessian",
        help="the last two are of a Problem with a model: J^T H J of its loss_of_output, and the exact Fisher "
        "information, categorical for integer targets, else Gaussian (hessian)",
    )
    group.add_argument("--k", type=_positive, default=10, metavar="K", help="pairs wanted (10)")
    group.add_argument(
        "--which",
        choices=("LA", "SA", "LM", "BE"),
        default="LA",
        help="LA largest, SA lowest, LM largest magnitude, BE both ends; with LA and LM a few of the lowest are "
        "added (LA)",
    )
    group.add_argument(
        "--without",
        nargs="+",
        choices=("density", "layers", "gauss-newton"),
        default=(),
        metavar="PART",
        help="leave out parts that cost matvecs: density (320), layers (2000 at most), gauss-newton (60), which is "
        "beside the Hessian where the Problem has a model and a loss_of_output",
    )
    group.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of training and start vectors, below 2^32 (0)"
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default="float32",
        help="of parameters and data; yours are converted (float32)",
    )
    group.add_argument("--out", default="eigenjax-out", metavar="DIR", help="folder to fill (eigenjax-out)")
    group.add_argument(
        "--formats",
        type=_formats,
        default=("png",),
        metavar="LIST",
        help="of the pictures beside the page, with commas between: png, svg, pdf (png)",
    )


def _add_methods(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--algorithm", choices=("both", "lanczos", "power"), default="both", help="(both)")
    group.add_argument(
        "--tol",
        type=_share,
        default=1e-5,
        metavar="T",
        help="a pair is converged when its residual is at most T times the largest |eigenvalue| (1e-5)",
    )
    group.add_argument(
        "--krylov-dim",
        type=_positive,
        metavar="M",
        help="matvecs of Lanczos, and vectors it holds: fewer save memory (the larger of 150 and 4 K)",
    )
    group.add_argument(
        "--max-iter", type=_positive, default=5000, metavar="N", help="power: matvecs for one pair at most (5000)"
    )
    group.add_argument(
        "--momentum", type=_share, default=0.98, metavar="R", help="power: 0 to 1, 0 is the plain method (0.98)"
    )
    group.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="compile all programs anew; otherwise they are kept in the user's cache folder, or in "
        "JAX_COMPILATION_CACHE_DIR, and a second run starts at once",
    )
    group.add_argument(
        "--batch-size", type=_positive, metavar="B", help="examples at a time, for data too large for memory (all)"
    )


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    if int(text) > _LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is too large: give {_LARGEST} at most")
    return int(text)


def _seed(text: str) -> int:
    if not 0 <= int(text) <= _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {_LARGEST_SEED} (2^32 - 1)")
    return int(text)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    unknown = [name for name in names if name not in _FORMATS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no format of pictures: give one or more of {', '.join(_FORMATS)}, with commas between"
        )
    return names


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return float(text)


# argparse names the type in its message: "invalid whole number value: 'ten'".
_positive.__name__ = _seed.__name__ = "whole number"
_share.__name__ = "number"

if __name__ == "__main__":
    sys.exit(main())

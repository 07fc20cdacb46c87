"""Command of the benchmark: the stages in order, each with its share of the minutes."""

import argparse
from collections.abc import Sequence

import benchmarks.accelerator as package
from benchmarks.accelerator import harness, overhead, peers, right, split
from benchmarks.support import timing

# Share of the minutes after which a stage starts no more items. Later stages get the time that a stage leaves.
STAGES = {
    "right": (right.run, 0.3),
    "overhead": (overhead.run, 0.7),
    "peers": (peers.run, 0.92),
    "split": (split.run, 1.0),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stages and record their results."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--minutes", type=float, default=6.0, help="for all stages together")
    options.add_argument("--stages", default=",".join(STAGES), help="which, in which order (default %(default)s)")
    options_given, remaining = options.parse_known_args(argv)
    args = timing.arguments(package.__doc__, 3, remaining)
    names = options_given.stages.split(",")
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        options.error(f"--stages: {', '.join(unknown)} is none of {', '.join(STAGES)}")
    deadlines = harness.deadlines(options_given.minutes, [STAGES[name][1] for name in names])
    for name, deadline in zip(names, deadlines, strict=True):
        log = harness.Log(name, args, deadline)
        STAGES[name][0](log)
        log.show()


if __name__ == "__main__":
    main()

"""``metrics-framework compare``: a verdict on two groups of snapshots."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metrics_framework.cli.output import escape_control
from metrics_framework.errors import MissingExtraError, OutputError, nearest

if TYPE_CHECKING:
    from metrics_framework.cli.compared_runs import ComparedSides
    from metrics_framework.snapshots.compare import Better, Comparison, MetricRule

FORMATS = ("table", "json", "markdown", "github", "junit")

EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_UNDECIDED = 3
"""Nothing can be compared, or with ``--strict`` the comparison is inconclusive."""

EXIT_FIRST_JOB = 4
"""Nothing can be compared, because the history has no runs of other jobs yet."""

DEFAULT_JOBS = 20
"""How many jobs of a history are the baseline."""

MAX_MARGIN = 10
"""Margins are below this share."""

MAX_ERROR = 0.5
"""A probability of error is below this share."""

_SEPARATOR = "\0--"
"""Stands for ``--`` while click parses, which would drop it. No argument has a null character."""


class TwoSidedCommand(click.Command):
    """A command whose paths before ``--`` are one side, and those behind it the other."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse options on both sides of ``--``."""
        if args.count("--") > 1:
            raise click.UsageError("-- is given twice: pass it once, between BASE and CURRENT", ctx)
        return super().parse_args(ctx, [_SEPARATOR if one == "--" else one for one in args])


def parse_share(text: str, below: float) -> float:
    """Return a share such as ``10%`` or ``0.1``.

    Raises:
        BadParameter: If it is not above 0 and below the limit.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a share: pass, for example, 5% or 0.05") from None
    if share >= 1 and not text.endswith("%"):
        raise click.BadParameter(f"{text!r} is not below 1: pass {text}% if you mean percent")
    if not 0 < share < below:
        raise click.BadParameter(f"{text!r} is not above 0% and below {below:.0%}: pass, for example, 5%")
    return share


def parse_margin(text: str) -> tuple[str, float]:
    """Return the pattern and the margin of ``[KEY=]SHARE``.

    Example:
        >>> parse_margin("latency.*=10%"), parse_margin("0.1")
        (('latency.*', 0.1), ('*', 0.1))
    """
    pattern, equals, share = text.rpartition("=")
    if equals and not pattern:
        raise click.BadParameter(f"{text!r} has no key before the =: pass KEY=10%, or 10% for all metrics")
    return pattern or "*", parse_share(share, MAX_MARGIN)


def parse_better(text: str) -> tuple[str, str]:
    """Return the pattern and the direction of ``KEY=lower``, ``KEY=higher`` or ``KEY=neither``."""
    pattern, _, better = text.rpartition("=")
    if not pattern or better not in ("lower", "higher", "neither"):
        raise click.BadParameter(
            f"{text!r} is not of the form KEY=lower, KEY=higher or KEY=neither: pass, for example,"
            " custom.hits=higher"
        )
    return pattern, better


def parse_format(text: str) -> tuple[str, Path | None]:
    """Return the format and the file of ``FORMAT[=FILE]``; ``None`` for standard output."""
    format, equals, file = text.partition("=")
    if format not in FORMATS:
        raise click.BadParameter(f"{format!r} is not a format.{nearest(format, FORMATS)}")
    if equals and not file:
        raise click.BadParameter(f"{text!r} names no file: pass {format}=FILE, or {format}")
    return format, Path(file) if file else None


def _each(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], Any]:
    """Return the callback of a repeatable option."""
    return lambda _context, _option, texts: [parse(text) for text in texts]


_OPTIONS = [
    click.argument("paths", metavar="BASE... -- CURRENT...", nargs=-1),
    click.option(
        "--history",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Take the baseline from this folder of snapshots, or file with one per line, in place of BASE.",
    ),
    click.option("--branch", help="Of --history, only runs of this branch."),
    click.option(
        "--last",
        type=click.IntRange(1),
        metavar="N",
        help=f"Of --history, the runs of the newest N jobs.  [default: {DEFAULT_JOBS}]",
    ),
    click.option(
        "--primary",
        multiple=True,
        metavar="PATTERN",
        help="Keys of the metrics that decide, such as 'latency.*'; repeatable."
        "  [default: latency.p95, throughput]",
    ),
    click.option(
        "--margin",
        "margins",
        callback=_each(parse_margin),
        multiple=True,
        metavar="[KEY=]SHARE",
        help="Accepted change of the metrics that match KEY, or of all: 10% or 0.1; repeatable."
        "  [default: 3% for memory_mb, else 5%]",
    ),
    click.option(
        "--better",
        "betters",
        callback=_each(parse_better),
        multiple=True,
        metavar="KEY=DIRECTION",
        help="Which values of the metrics that match KEY are better: lower, higher or neither; repeatable."
        "  [default: by the key]",
    ),
    click.option(
        "--error",
        callback=lambda _context, _option, text: parse_share(text, MAX_ERROR),
        default="1%",
        show_default=True,
        metavar="SHARE",
        help="Probability of a regression in the report although nothing changed.",
    ),
]


@dataclass(frozen=True)
class Selection:
    """What to compare, as the options of `comparison_options` tell."""

    paths: tuple[str, ...]
    history: Path | None
    branch: str | None
    last: int | None
    primary: tuple[str, ...]
    margins: list[tuple[str, float]]
    betters: list[tuple[str, str]]
    error: float

    def compare(self) -> tuple[Comparison, ComparedSides]:
        """Read both sides, and compare them. Without the extra ``compare``, the program ends."""
        try:  # slow to import, and needs an extra
            from metrics_framework.snapshots import compare as comparing
        except MissingExtraError as missing:
            click.echo(f"Error: {missing}", err=True)
            sys.exit(EXIT_USAGE)
        rules = _rules(self.margins, self.betters, comparing.MetricRule, comparing.Better)
        sides = _read(self.paths, self.history, self.branch, self.last)
        if not sides.are_complete:
            notes = tuple(sides.notes)
            return comparing.Comparison((), len(sides.baseline), len(sides.current), self.error, notes), sides
        found = comparing.compare(
            sides.baseline,
            sides.current,
            primary=self.primary or comparing.PRIMARY,
            rules=rules,
            error=self.error,
        )
        _warn_of_unused(found, self.primary, [rule.pattern for rule in rules], comparing.is_matching)
        return found, sides


def comparison_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of commands that compare two groups of snapshots, which get a `Selection` of them."""

    @wraps(command)
    def selecting(**options: Any) -> None:
        selection = Selection(**{one.name: options.pop(one.name) for one in fields(Selection)})
        command(selection, **options)

    decorated: Callable[..., None] = selecting
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@click.command(cls=TwoSidedCommand)
@comparison_options
@click.option("--strict", is_flag=True, help="Exit with 3 if the comparison is inconclusive.")
@click.option("--all", "show_all", is_flag=True, help="List all metrics, also those without a change.")
@click.option(
    "--format",
    "formats",
    callback=_each(parse_format),
    multiple=True,
    default=["table"],
    show_default="table",
    metavar="FORMAT[=FILE]",
    help="table, json, markdown, github (annotations of a workflow) or junit, on standard output or in FILE;"
    " repeatable.",
)
def compare(
    selection: Selection, strict: bool, show_all: bool, formats: list[tuple[str, Path | None]]
) -> None:
    """Decide whether CURRENT is slower than BASE.

    BASE and CURRENT are snapshots, folders of snapshots, or .jsonl files with one snapshot per line. Two
    paths need no -- between them. With --history, all paths are CURRENT, and the baseline is the newest jobs
    of a branch, without the jobs of the current runs.

    Jobs are compared, because runs of one job share the state of a machine: two jobs of the same code often
    differ by more than the margin. A metric regresses if it is worse by more than its margin, with the
    probability of --error that this is chance. An inconclusive report tells which change it could have found.

    \b
    Exit codes:
      0  no deciding metric regressed
      1  a deciding metric regressed
      2  wrong usage, a file cannot be read, or an output cannot be written
      3  nothing can be compared, or with --strict the comparison is inconclusive
      4  nothing can be compared yet: the history has no runs of other jobs, of any branch

    \b
    Examples:
      metrics-framework compare before.json after.json
      metrics-framework compare before/ -- after/ --margin 10%
      metrics-framework compare --history snapshots --branch main new.json
      metrics-framework compare a.json b.json --primary "latency.*" --format json
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    found, sides = selection.compare()
    from metrics_framework.cli import compare_formats  # slow to import

    is_written = True
    for format, file in formats:
        try:
            compare_formats.write(found, sides, format, file, show_all=show_all)
        except OutputError as fault:
            click.echo(f"Error: {fault}", err=True)
            is_written = False
    sys.exit(_exit_code(found, sides, strict) if is_written else EXIT_USAGE)


def _rules(
    margins: list[tuple[str, float]],
    betters: list[tuple[str, str]],
    make_rule: type[MetricRule],
    make_better: type[Better],
) -> list[MetricRule]:
    # A margin for all metrics must not hide one for some of them.
    ordered = sorted(margins, key=lambda one: one[0] == "*")
    return [
        *(make_rule(pattern, better=make_better(better)) for pattern, better in betters),
        *(make_rule(pattern, margin=margin) for pattern, margin in ordered),
    ]


def _read(
    paths: tuple[str, ...], history: Path | None, branch: str | None, last: int | None
) -> ComparedSides:
    from metrics_framework.cli import compared_runs

    base, separator, current = _split(paths)
    if history is None:
        for option, value in (("--branch", branch), ("--last", last)):
            if value is not None:
                raise click.UsageError(f"{option} selects from a history: pass --history DIR too")
        if not separator:
            if len(base) != 2:
                given = {0: "no path is", 1: "one path is"}.get(len(base), f"{len(base)} paths are")
                raise click.UsageError(
                    f"{given} given: pass BASE CURRENT, several of them with -- between, or --history DIR"
                )
            base, current = base[:1], base[1:]
    elif separator and base:
        raise click.UsageError(
            f"both --history and BASE {str(base[0])!r} are given: with --history, all paths are CURRENT"
        )
    else:
        base, current = [], current or base
    for side, listed in (("BASE", base), ("CURRENT", current)):
        if not listed and (side == "CURRENT" or history is None):
            raise click.UsageError(f"no {side} is given: pass a snapshot, a folder or a .jsonl file")
    for path in (*base, *current):
        if not path.exists():
            raise click.UsageError(f"{str(path)!r} does not exist")
    if history is not None:
        return compared_runs.read_history(history, branch, last or DEFAULT_JOBS, current)
    return compared_runs.read_sides(base, current)


def _split(paths: tuple[str, ...]) -> tuple[list[Path], bool, list[Path]]:
    if _SEPARATOR not in paths:
        return list(map(Path, paths)), False, []
    place = paths.index(_SEPARATOR)
    return list(map(Path, paths[:place])), True, list(map(Path, paths[place + 1 :]))


def _warn_of_unused(
    found: Comparison, primary: tuple[str, ...], patterns: list[str], is_matching: Callable[[str, str], bool]
) -> None:
    keys = {metric.key for metric in found.metrics}
    for pattern in dict.fromkeys([*primary, *patterns]):
        if pattern != "*" and not any(is_matching(key, pattern) for key in keys):
            text = f"Warning: no metric matches {pattern!r}.{nearest(pattern, keys)}"
            click.echo(escape_control(text), err=True)


def _exit_code(found: Comparison, sides: ComparedSides, strict: bool) -> int:
    if sides.is_first_job:
        return EXIT_FIRST_JOB
    if not found.is_comparable:
        return EXIT_UNDECIDED
    if found.verdict == "regression":
        return EXIT_REGRESSION
    return EXIT_UNDECIDED if strict and found.verdict == "inconclusive" else 0

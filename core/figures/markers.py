"""Markers: comments in Markdown, invisible on the page, that say from which runs a number or a picture is generated.

    <!-- figure test/accuracy: cifar_cnn variant=cosine seeds=3 -->81.51 % +- 0.71<!-- /figure -->
    ![two settings](comparison.svg)<!-- picture test/accuracy: cifar_cnn seeds=3 baseline=cosine -->

The colon is followed by an experiment and its options, as after `python -m experiments.`, but without the two dashes,
because GitHub would show a comment that contains them (GitHub Flavored Markdown, 6.10). The present text of a figure
determines the format of the new one: the number of decimals, and whether it has a percent sign, an interval, the number
of seeds, as in `(n = 3)`, or the value of each seed, separated by commas. A picture shows the declaration and all of
its variants.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

from core.catalogue import import_data, package_of
from core.common import paths
from core.common.errors import UserError
from core.common.text import did_you_mean
from core.compare.forest_plot import KINDS
from core.experiment import Experiment
from core.metrics.names import MetricName
from core.options import parse

FIGURE = re.compile(r"<!-- figure (?P<metric>[^\s:]+): (?P<words>[^<>]+?) -->(?P<text>[^<]*)<!-- /figure -->")
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<text>[^)\s]+)\)<!-- picture (?P<metric>[^\s:]+): (?P<words>[^<>]+?) -->")
ANY = re.compile(r"<!--\s*/?\s*(figure|picture)\b")
SHAPES = {
    "figure": "<!-- figure METRIC: EXPERIMENT option=value ... -->TEXT<!-- /figure -->",
    "picture": "![TEXT](FILE.svg)<!-- picture METRIC: EXPERIMENT option=value ... -->",
}
MEAN = re.compile(r"-?\d+(?:\.(?P<decimals>\d+))?(?P<unit> %)?(?P<half> \+- \d+(?:\.\d+)?)?(?P<n> \(n = \d+\))?")
EACH = re.compile(r"-?\d+(?:\.(?P<decimals>\d+))?(?:, -?\d+(?:\.\d+)?)+")
_MEASURED = [name.removeprefix("val/") for name in get_args(MetricName)]
METRICS = (*(f"{split}/{name}" for split in ("test", "val") for name in _MEASURED), "train/loss", "train/accuracy")


@dataclass(frozen=True)
class Setting:
    """A declaration in the present code of the experiment. seeds: of the runs to use.  command: trains them."""

    experiment: str
    variant: str | None
    declaration: Experiment
    seeds: range
    command: str

    @property
    def title(self) -> str:
        return f"{self.experiment} {self.variant or 'base'}"


@dataclass(frozen=True)
class Marker:
    """A marker in a file.

    place: file and line, for messages.  line: its number from 0.  span: start and end in the line of the text to
    replace, or of the path of a picture.  settings: one for a figure; all that a picture compares.
    """

    place: str
    line: int
    span: tuple[int, int]
    text: str
    metric: str
    settings: tuple[Setting, ...]
    picture: bool = False
    baseline: str | None = None


def markers(path: Path) -> list[Marker]:
    """Returns the markers in a Markdown file, outside of code blocks. Raises UserError with every error in it."""
    found: list[Marker] = []
    wrong: list[str] = []
    for number, line in _lines(path):
        place = f"{_short(path)}:{number + 1}"
        for kind, shape in (("figure", FIGURE), ("picture", PICTURE)):
            for match in shape.finditer(line):
                try:
                    found.append(_marker(place, number, kind, match, path.parent))
                except UserError as mistakes:
                    wrong += [f"{place}: {mistake}" for mistake in mistakes.lines]
        for left in ANY.finditer(PICTURE.sub("", FIGURE.sub("", line))):
            wrong.append(f"{place}: a {left[1]} should be written on one line as {SHAPES[left[1]]}")
        if ANY.match(line.lstrip()):
            wrong.append(f"{place}: GitHub does not format a line that begins with a comment; put a word before it")
    if wrong:
        raise UserError(wrong)
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 0, line) outside of code blocks."""
    fenced = False
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError([f"{path}: {error.strerror if isinstance(error, OSError) else 'not text'}"]) from None
    for number, line in enumerate(text.splitlines()):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            yield number, line


def _short(path: Path) -> Path:
    full = path.absolute()
    return full.relative_to(paths.ROOT) if full.is_relative_to(paths.ROOT) else path


def _marker(place: str, line: int, kind: str, match: re.Match[str], folder: Path) -> Marker:
    metric, text, (name, *words) = match["metric"], match["text"], match["words"].split()
    wrong = []
    if "--" in match["words"]:
        raise UserError([f"{match['words']}: GitHub would show a comment with --; write option=value"])
    picture = kind == "picture"
    baseline = [word.removeprefix("baseline=") for word in words if picture and word.startswith("baseline=")]
    try:
        settings = _settings(name, [word for word in words if not (picture and word.startswith("baseline="))], picture)
        known = [setting.variant or "base" for setting in settings]
        wrong += [f"baseline={one}: unknown variant{did_you_mean(one, known)}" for one in baseline if one not in known]
    except UserError as mistakes:
        settings = ()
        wrong += mistakes.lines
    declared = {one.label() for setting in settings for one in setting.declaration.metrics}
    measured = [*METRICS, *(f"{split}/{label}" for split in ("test", "val") for label in sorted(declared))]
    if metric not in measured:
        wrong.append(f"{metric}: unknown metric{did_you_mean(metric, measured)}")
    if picture and Path(text).suffix not in KINDS:
        wrong.append(f"{text}: the name of a picture should end in {' or '.join(KINDS)}")
    if picture and not (folder / text).parent.is_dir():
        wrong.append(f"{text}: folder not found")
    if not picture and settings:
        wrong += _format_errors(text, len(settings[0].seeds))
    if wrong:
        raise UserError(wrong)
    return Marker(place, line, match.span("text"), text, metric, settings, picture, *baseline)


def _format_errors(text: str, seeds: int) -> Iterator[str]:
    """Errors in the text of a figure."""
    mean = MEAN.fullmatch(text)
    if not mean and not EACH.fullmatch(text):
        yield f"{text!r}: should look like 72.06 % +- 0.97, 72.1, or 80.61, 82.09, 80.70; the digits may be zeros"
    elif mean and mean["half"] and seeds == 1:
        yield f"{text!r}: one seed has no interval; add seeds=N"


def _settings(name: str, words: list[str], all_variants: bool) -> tuple[Setting, ...]:
    """The setting that the words describe; for a picture, also those of its variants. Raises UserError."""
    package = package_of(name)
    if bare := [word for word in words if "=" not in word]:
        raise UserError([f"{word}: should be option=value" for word in bare])
    import_data()
    module = importlib.import_module(package)
    if not all_variants:
        return (_setting(name, module, words),)
    if any(word.startswith("variant=") for word in words):
        raise UserError(["variant: a picture shows all variants; leave it out"])
    variants = [[], *([f"variant={variant}"] for variant in getattr(module, "VARIANTS", {}))]
    return tuple(_setting(name, module, [*variant, *words]) for variant in variants)


def _setting(name: str, module: ModuleType, words: list[str]) -> Setting:
    """The setting of an experiment with these options. Raises UserError for invalid options."""
    try:
        options = parse([f"--{word}" for word in words], module.EXPERIMENT, getattr(module, "VARIANTS", {}))
    except UserError as mistakes:
        raise UserError(line.replace("--", "") for line in mistakes.lines) from None
    first = options.experiment.seed
    command = " ".join(f"--{word.replace('=', ' ', 1)}" for word in words)
    return Setting(
        name,
        options.variant,
        options.experiment,
        range(first, first + (options.seeds or 1)),
        f"python -m experiments.{name} {command}".rstrip(),
    )


def replaced(text: str, changes: list[tuple[Marker, str]]) -> str:
    """Returns the text of a file with new texts at some of its markers."""
    lines = text.splitlines(keepends=True)
    for marker, new in sorted(changes, key=lambda change: change[0].span, reverse=True):
        start, end = marker.span
        lines[marker.line] = lines[marker.line][:start] + new + lines[marker.line][end:]
    return "".join(lines)

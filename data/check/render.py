"""The output of `labbook check` on the terminal: counts, sizes, findings, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from core.common.terminal import console, tell
from core.common.text import listed, natural
from data.check.findings import Finding, Inspection, number
from data.check.labels import Opinion
from data.reading.layout import WHOLE
from data.reading.progress import first, printable

FEW = 10  # names shown for a warning or note without --all
ROWS = 40  # classes in the table of counts
ORDER = {"train": 0, "val": 1, "test": 2}


def show(found: Inspection, every: Sequence[Finding], whole: bool) -> None:
    """Print the result of an inspection to standard output.  whole: show all names."""
    _counts(found, whole)
    for line in (*_sizes(found), *_kinds(found)):
        tell(line)
    short = False
    for finding in every:
        tell(f"\n{finding.grade}: {finding.said}")
        cut = not whole and finding.grade != "error" and len(finding.names) > FEW
        for name in first(list(finding.names), FEW) if cut else finding.names:
            tell(f"    {name}")
        short |= cut
    tell(f"\n{verdict(every)}{'; --all lists all names' if short else ''}")


def verdict(every: Sequence[Finding]) -> str:
    """One line with the number of errors and warnings."""
    grades = Counter(finding.grade for finding in every)
    warnings = f", {number(grades['warning'], 'warning')}" if grades["warning"] else ""
    return f"{number(grades['error'], 'error') if grades['error'] else 'no errors'}{warnings}"


def doubts(opinion: Opinion, names: Sequence[str]) -> Iterator[Finding]:
    """Findings about suspect labels.  names: of all images, by row."""
    count = f"{number(len(opinion.suspects), 'label')} of {opinion.classified:,}"
    said = f"{opinion.run} disagrees with {count}; {opinion.caveat}"
    lines = tuple(
        printable(f"{names[one.row]}: {one.label}, predicted {one.said} ({one.confidence:.1%})")
        for one in opinion.suspects
    )
    yield Finding("warning" if lines else "note", said, lines)
    if opinion.strange:
        strange = tuple(map(printable, opinion.strange))
        yield Finding("note", f"{opinion.run} was not trained on these classes, whose labels were not checked", strange)


def _counts(found: Inspection, whole: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    splits = sorted({split for split, _ in found.places}, key=lambda name: (ORDER.get(name, 3), name))
    classes = natural({name for _, name in found.places})
    named = number(len([name for name in classes if name]), "class", "classes")
    tell(printable(f"{found.tree.path}: {number(len(found.tree.names), 'image')}, {named}"))
    if not classes:
        return
    tell(f"classes, in their order: {listed([name for name in classes if name])}")
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("images that can be read", overflow="fold")
    for split in splits:
        grid.add_column(Text("images" if split == WHOLE else printable(split) or "no split"), justify="right")
    for name in classes if whole else classes[:ROWS]:
        counts = (found.counts[split, name] for split in splits)
        grid.add_row(Text(printable(name) or "in no class"), *(f"{count:,}" for count in counts))
    if len(classes) > ROWS and not whole:
        grid.add_row(f"... and {len(classes) - ROWS:,} more")
    totals = [sum(count for (of, _), count in found.counts.items() if of == split) for split in splits]
    grid.add_section()
    grid.add_row("all", *(f"{total:,}" for total in totals))
    console().print(grid, highlight=False)


def _sizes(found: Inspection) -> Iterator[str]:
    """Lines with the smallest, median and largest image by area, and a histogram of the shorter side."""
    seen = found.survey.seen
    rows = sorted(seen, key=lambda row: (seen[row].width * seen[row].height, row))
    if not rows:
        return
    said = [f"{seen[row].width} x {seen[row].height}" for row in (rows[0], rows[len(rows) // 2], rows[-1])]
    if len({(one.width, one.height) for one in seen.values()}) == 1:
        yield f"sizes: all {said[0]} pixels"
        return
    yield (
        f"sizes: smallest {said[0]} ({found.name(rows[0])}), median {said[1]}, "
        f"largest {said[2]} ({found.name(rows[-1])})"
    )
    magnitudes = Counter(min(one.width, one.height).bit_length() for one in seen.values())
    bins = (f"{1 << bits - 1}-{(1 << bits) - 1}: {count:,}" for bits, count in sorted(magnitudes.items()))
    yield f"shorter side in pixels: {' | '.join(bins)}"


def _kinds(found: Inspection) -> Iterator[str]:
    for what, counts in (
        ("formats", Counter(one.form for one in found.survey.seen.values())),
        ("modes", Counter(one.mode for one in found.survey.seen.values())),
    ):
        if counts:
            yield f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.most_common())}"
    if len({one.mode for one in found.survey.seen.values()}) > 1:
        yield found.how.policy

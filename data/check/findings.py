"""The findings of labbook check: errors, warnings and notes about the images of a source."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from core.common.text import natural
from data.check.pairs import Near, Pair
from data.check.survey import TREATED, Survey
from data.reading import archive
from data.reading.decode import MAX_VALUE, UNSUPPORTED, Conversion
from data.reading.labels import doubts
from data.reading.layout import WHOLE
from data.reading.listing import Listing
from data.reading.progress import printable
from data.reading.tree import Tree

Grade = Literal["error", "warning", "note"]
GRADES: tuple[Grade, ...] = ("error", "warning", "note")
IMBALANCED = 10.0  # ratio of the largest to the smallest class size from which it is a warning
CROWDED = 50_000  # files in one folder
NATIVE = {
    "JPEG": ".jpg .jpeg .jfif",
    "PNG": ".png",
    "BMP": ".bmp",
    "GIF": ".gif",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "AVIF": ".avif",
    "JPEG2000": ".jp2 .j2k .jpx",
}


@dataclass(frozen=True)
class Finding:
    """said: one line that says what was found and what to do.  names: a line for each file concerned."""

    grade: Grade
    said: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """The result of the inspection of a tree.

    listing: its images, with their splits and classes.  how: they are converted.  refused: error lines of the data set
    about the layout.  same: rows of images with identical content.  counts: number of readable images of each (split,
    class).
    """

    listing: Listing
    how: Conversion
    refused: tuple[str, ...]
    survey: Survey
    same: tuple[tuple[int, ...], ...]
    near: Near
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def tree(self) -> Tree:
        """The names of the images."""
        return self.listing.tree

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """(split, class) of each image, "" for an unknown one."""
        return self.listing.places

    def name(self, row: int) -> str:
        """The printable name of an image."""
        return printable(self.tree.names[row])


def counted(places: Sequence[tuple[str, str]], survey: Survey) -> Counter[tuple[str, str]]:
    """(split, class) -> number of images that can be read."""
    return Counter(places[row] for row in survey.seen)


def findings(found: Inspection) -> list[Finding]:
    """All findings, errors first."""
    return graded(finding for look in LOOKS for finding in look(found))


def graded(every: Iterable[Finding]) -> list[Finding]:
    """Findings sorted by grade: errors, warnings, notes."""
    return sorted(every, key=lambda finding: GRADES.index(finding.grade))


def number(n: int, what: str, many: str = "") -> str:
    """1 image, 2 images."""
    return f"{n:,} {what if n == 1 else many or what + 's'}"


def _refused(found: Inspection) -> Iterator[Finding]:
    if found.refused:
        yield Finding("error", f"{found.listing.data} would reject these images:", found.refused)


def _unreadable(found: Inspection) -> Iterator[Finding]:
    names = [f"{found.name(row)}: {printable(why)}" for row, why in found.survey.unreadable.items()]
    if names:
        said = f"{number(len(names), 'image')} of {len(found.tree.names):,} cannot be read; repair or remove them"
        yield Finding("error", said, tuple(names))


def _same(found: Inspection) -> Iterator[Finding]:
    """Images with identical content: in several splits, in several classes, and within one class of a split."""
    leaks, doubled, repeated = [], [], []
    for rows in found.same:
        splits, classes = ({found.places[row][part] for row in rows} - {""} for part in (0, 1))
        line = " = ".join(found.name(row) for row in rows)
        if len(splits) > 1 or splits == {WHOLE}:
            leaks.append(line)
        if len(classes) > 1:
            doubled.append(line)
        if len(splits) <= 1 and len(classes) <= 1 and splits != {WHOLE}:
            repeated.append(line)
    if doubled:
        said = f"{number(len(doubled), 'image')} in more than one class; keep only the copy in the correct class"
        yield Finding("error", said, tuple(doubled))
    if leaks:
        why = "in more than one split"
        if any(split == WHOLE for split, _ in found.places):
            why = "duplicated; the test split is random, so that copies can be in both train and test"
        yield Finding("error", f"{number(len(leaks), 'image')} {why}; keep one copy of each", tuple(leaks))
    if repeated:
        said = f"{number(len(repeated), 'image')} duplicated within a class; each copy counts as an image"
        yield Finding("warning", said, tuple(repeated))


def _near(found: Inspection) -> Iterator[Finding]:
    near = found.near
    if near.across:
        said = f"{number(len(near.across), 'pair')} of near-duplicates across splits; compare them and keep one of each"
        yield Finding("error", said, tuple(_pair(found, pair) for pair in near.across))
    torn: list[Pair] = []
    rest: list[Pair] = []
    for pair in near.within:
        labels = {found.places[row][1] for row in (pair.one, pair.other)}
        (torn if len(labels) > 1 else rest).append(pair)
    if torn:
        said = f"{number(len(torn), 'pair')} of near-duplicates in different classes; check whether a label is wrong"
        yield Finding("warning", said, tuple(_pair(found, pair) for pair in torn))
    if rest:
        random = any(split == WHOLE for split, _ in found.places)
        where = "within a class; the random split can put one in train, the other in test" if random else ""
        said = f"{number(len(rest), 'pair')} of near-duplicates {where or 'within a class of a split'}"
        yield Finding("warning", said, tuple(_pair(found, pair) for pair in rest))
    if near.looked < near.total:
        said = f"near-duplicates were searched for {near.looked:,} of {near.total:,} images, until the time limit"
        yield Finding("warning", said)


def _pair(found: Inspection, pair: Pair) -> str:
    return f"{found.name(pair.one)} ~ {found.name(pair.other)} ({pair.alike:.3f})"


def _balance(found: Inspection) -> Iterator[Finding]:
    """Classes with too few images for the splits, classes with one image, and the class imbalance of each split."""
    splits = {split for split, _ in found.counts}
    few, single = [], []
    for split, name in sorted(set(found.places)):
        if not name:
            continue
        count = found.counts[split, name]
        needed = 3 if split == WHOLE else 2 if split == "train" and "val" not in splits else 1
        where = name if split == WHOLE else f"{split}/{name}"
        if count < needed:
            few.append(f"{printable(where)}: {number(count, 'image')}, at least {needed} are required")
        elif count == 1:
            single.append(printable(where))
    if few:
        said = "classes with too few readable images for the splits; add images"
        yield Finding("error", said, tuple(few))
    if single:
        yield Finding("warning", "classes with only one image", tuple(single))
    for split in sorted(splits):
        sizes = {name: count for (at, name), count in found.counts.items() if at == split and name}
        if len(sizes) > 1:
            most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
            ratio, of = sizes[most] / sizes[least], "" if split == WHOLE else f"{split}: "
            ends = f"{printable(most)} {sizes[most]:,}, {printable(least)} {sizes[least]:,}"
            if ratio >= IMBALANCED:
                advice = "consider --sampling or a loss for imbalanced data"
                yield Finding("warning", f"{of}imbalance ratio {ratio:.1f} ({ends}); {advice}")
            else:
                yield Finding("note", f"{of}imbalance ratio {ratio:.1f}{f' ({ends})' if ratio > 1 else ''}")


def _names(found: Inspection) -> Iterator[Finding]:
    names = found.tree.names
    folders = sorted(found.tree.folders)
    for what, among in (("folders", folders), ("images", names)):
        alike = _clashing(among)
        if alike:
            said = (
                f"{what} whose names differ only in case or in the Unicode form of accents, which Windows and macOS do "
                "not distinguish; rename them"
            )
            yield Finding("warning", said, tuple(_told_apart(group) for group in alike))
    missing = [line for line in doubts(natural({name for _, name in found.places})) if "no label" in line]
    if missing:
        yield Finding("warning", "names of classes that usually stand for a missing label", tuple(missing))
    odd: dict[str, Callable[[str], bool]] = {
        "not in UTF-8, which some programs do not support": lambda name: not _is_text(name),
        "with non-ASCII characters": lambda name: _is_text(name) and not name.isascii(),
        "with spaces": lambda name: " " in name,
    }
    for which, is_so in odd.items():
        if those := [printable(name) for name in names if is_so(name)]:
            yield Finding("note", f"{number(len(those), 'image name')} {which}", tuple(those))
    crowds = Counter(name.rpartition("/")[0] for name in names)
    if crowded := [f"{printable(folder)}: {count:,}" for folder, count in crowds.items() if count > CROWDED]:
        said = f"folders with more than {CROWDED:,} images, which network disks list slowly; a tar or zip is faster"
        yield Finding("warning", said, tuple(crowded))


def _clashing(names: Sequence[str]) -> list[list[str]]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        folder, _, last = name.rpartition("/")
        groups[folder, unicodedata.normalize("NFC", last).casefold()].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _told_apart(group: Sequence[str]) -> str:
    """The names of a group; names that look the same are escaped."""
    looks = {unicodedata.normalize("NFC", name) for name in group}
    return " and ".join(printable(name) if len(looks) == len(group) else ascii(name) for name in group)


def _is_text(name: str) -> bool:
    return not any("\udc80" <= sign <= "\udcff" for sign in name)


def _treated(found: Inspection) -> Iterator[Finding]:
    for kind, what in TREATED.items():
        names = [found.name(row) for row, one in found.survey.seen.items() if kind in one.treated]
        if names:
            yield Finding("note", f"{number(len(names), 'image')} {kind}: {what}", tuple(names))
    other = [
        f"{found.name(row)}: {one.form}"
        for row, one in found.survey.seen.items()
        if one.form in NATIVE and PurePosixPath(found.tree.names[row]).suffix.lower() not in NATIVE[one.form].split()
    ]
    if other:
        yield Finding(
            "note", f"{number(len(other), 'image')} whose format differs from the file extension", tuple(other)
        )


def _contrast(found: Inspection) -> Iterator[Finding]:
    """Images that training would see as one color, and 16-bit images of which it would see few gray levels."""
    seen = found.survey.seen
    flat = {row: "with transparency" in one.treated for row, one in seen.items() if one.flat}
    for clear, advice in ((True, " on a white background; if they are drawn in white, use --data.background black"),
                          (False, "; look at them")):  # fmt: skip
        if names := [found.name(row) for row, is_clear in flat.items() if is_clear == clear]:
            yield Finding("warning", f"{number(len(names), 'image')} of a single color{advice}", tuple(names))
    peaks = {row: one.peak for row, one in seen.items() if one.peak is not None}
    bits = max(peaks.values(), default=MAX_VALUE).bit_length()
    if clipped := [found.name(row) for row, peak in peaks.items() if peak > found.how.max_value]:
        said = f"{number(len(clipped), '16-bit image')} with values above --data.max_value {found.how.max_value}"
        yield Finding("warning", f"{said}, which become white", tuple(clipped))
    if bits < 16 and found.how.max_value == MAX_VALUE:
        top = max(255, (1 << bits) - 1)
        said = (
            f"{number(len(peaks), '16-bit image')} with values up to {max(peaks.values()):,} only, of which the high "
            f"byte keeps {(max(peaks.values()) >> 8) + 1} gray levels; use --data.max_value {top}"
        )
        yield Finding("warning", said, tuple(map(found.name, peaks)))


def _others(found: Inspection) -> Iterator[Finding]:
    hidden = [name for name in found.tree.others if archive.hidden(name)]
    plain = [name for name in found.tree.others if not archive.hidden(name)]
    unread = [name for name in plain if PurePosixPath(name).suffix.lower() in UNSUPPORTED]
    left = [name for name in plain if PurePosixPath(name).suffix.lower() not in UNSUPPORTED]
    ignored: tuple[tuple[Grade, list[str], str, str], ...] = (
        ("warning", unread, "file", "ignored, because the image format is not supported; convert to JPEG or PNG"),
        ("note", hidden, "hidden file", "ignored"),
        ("note", left, "other file", "ignored"),
    )
    for grade, names, what, said in ignored:
        if names:
            lines = tuple(map(printable, names))
            yield Finding(grade, f"{number(len(names), what)} {said}", lines)


LOOKS: tuple[Callable[[Inspection], Iterator[Finding]], ...] = (
    _refused, _unreadable, _same, _near, _balance, _names, _treated, _contrast, _others,
)  # fmt: skip

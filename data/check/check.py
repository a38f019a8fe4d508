"""labbook check PATH: images of your own, inspected before a run takes them. Nothing is changed.

PATH is what ImageFolder takes with --root: a folder, tar or zip of class folders. Exit status 1 where something is
wrong: images that cannot be read, a layout that ImageFolder refuses, links out of the folder, classes too small to be
split, one image in two splits or under two classes, near-duplicates across splits. Warnings leave it at 0: uneven
classes, near-duplicates within a split, names that clash on other systems, labels that a run doubts. Status 2: PATH
cannot be inspected at all, as a damaged or unsafe archive, or an option is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.common.arguments import Words
from core.common.errors import DataError, UserError
from core.common.terminal import tell
from core.record.run import WEIGHTS, holds_others
from core.runs.trained import Run, load
from data.check import sheet
from data.check.findings import Inspection, counted, findings, graded
from data.check.labels import opinion
from data.check.pairs import near, same
from data.check.render import doubts, show
from data.check.survey import survey
from data.reading import layout, tree
from data.reading.progress import say


def main(words: Sequence[str]) -> int:
    """Exit status 0, or 1 where something is wrong with the images. Raises UserError."""
    parser = Words("check", __doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, tar or zip of class folders")
    parser.add_argument("--run", metavar="RUN", help="a run on record: which labels its network doubts")
    parser.add_argument("--device", default="auto", help="of --run: cpu, cuda, cuda:1, mps; auto takes the best")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a PNG of images by class, pairs and doubted labels")
    parser.add_argument("--all", action="store_true", help="every name, also of warnings and notes")
    given = parser.parse_args(list(words))
    if given.sheet:
        _refuse_place(given.sheet, given.path)
    run = _judge(given.run) if given.run else None
    found = inspect(given.path)
    said = opinion(found.tree, found.places, found.survey, run, given.device) if run else None
    every = graded([*findings(found), *(doubts(said, found.tree.names) if said else ())])
    show(found, every, given.all)
    if given.sheet:
        try:
            sheet.write(found, said, given.sheet)
        except OSError as error:
            raise UserError([f"--sheet {given.sheet}: {error.strerror or error}"]) from None
        tell(f"written: {given.sheet}")
    return int(any(finding.grade == "wrong" for finding in every))


def inspect(path: Path) -> Inspection:
    """All that can be seen of the images at this path. Raises DataError for what cannot be listed or opened at all."""
    refused: dict[str, None] = {}  # in order, each once: the folder is walked twice

    def refuse(error: DataError) -> None:
        refused.update(dict.fromkeys(error.lines))

    found = tree.scan(path, refuse)
    places = tuple(layout.places(found))
    seen = survey(found, refuse)
    refused.update(dict.fromkeys(layout.faults(found)))
    say("looking for near-duplicates")
    alike = near(seen, [split for split, _ in places])
    return Inspection(found, places, tuple(refused), seen, tuple(same(seen)), alike, counted(places, seen))


def _judge(name: str) -> Run:
    """Raises UserError for a run that has no network to ask."""
    run = load(name)
    if holds_others(run.record):
        raise UserError([f"--run {run.id} holds other runs and has no network of its own; name one of them"])
    if not (run.folder / "artifacts" / WEIGHTS).exists():
        raise UserError([f"--run {run.id} has kept no weights: name a run that was trained to its end"])
    return run


def _refuse_place(sheet_path: Path, path: Path) -> None:
    """Raises UserError, before the images are read."""
    wrong = []
    if sheet_path.suffix.lower() != ".png":
        wrong.append(f"--sheet {sheet_path}: needs the name of a PNG file")
    if not sheet_path.absolute().parent.is_dir():
        wrong.append(f"--sheet {sheet_path}: needs a folder that exists")
    if path.is_dir() and sheet_path.resolve().is_relative_to(path.resolve()):
        wrong.append(f"--sheet {sheet_path}: lies among the images; name a file outside {path}")
    if wrong:
        raise UserError(wrong)

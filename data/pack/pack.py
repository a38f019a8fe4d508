"""labbook pack PATH --to FORMAT --out DIR: images checked, reduced and packed into a set that is trained on as it lies.

PATH is what training gets as --root: a folder, tar or zip of class folders, a table (CSV, Parquet, or a folder of
part-files as Spark writes them), shards, an HDF5 file. The shorter side of images is reduced to --size (JPEG, quality
95); files that are small enough are copied byte for byte. Damaged images and duplicates are left out and listed in
DIR/left_out.csv; DIR/pack.json has the statistics. A command that was stopped, also by kill -9, continues when it is
run again. DIR holds the same bytes whatever the engine and the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from core import randomness
from core.common import extras
from core.common.arguments import VerbParser
from core.common.errors import DataError, UserError
from core.common.files import NO_ROOM, make_folder, place, write_atomic
from core.common.terminal import complain, tell
from core.engines.engine import Engine
from core.engines.opening import add_engine, opened
from data.check.survey import Content
from data.folder import ImageFiles
from data.kinds import PACKED, declared, divided, kind_of
from data.pack import choose, formats, statistics
from data.pack.choose import Duplicates, Left, as_csv
from data.pack.formats import FORMATS, Chosen
from data.pack.reduce import BYTES, IMAGES, Batch, Reduced, Short, key_of, reduce, versions
from data.reading import archive, disk, labels, rows
from data.reading.frame import LEAST, MOST
from data.reading.listing import Listing
from data.reading.progress import bar, first, printable, say

LEFT, IMAGES_CSV = "left_out.csv", "images.csv"


@dataclass(frozen=True)
class Order:
    """What is packed, and how.  path: of the source.  out: of the packed set.  shares: see choose.divided.  per_task:
    the most images of a task, which the packed set does not depend on."""

    path: Path
    out: Path
    to: str
    size: int
    shares: dict[str, float]
    damaged: Literal["skip", "error"] = "skip"
    duplicates: Duplicates = "near"
    per_task: int = IMAGES

    @property
    def work(self) -> Path:
        """The folder of what is not finished, beside the packed set."""
        return self.out.with_name(f"{self.out.name}.part")


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("pack", __doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, tar, zip, table or packed file of images")
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help="format of the packed set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the packed set; made anew")
    parser.add_argument(
        "--size", type=int, default=256, metavar="PIXELS", help="shorter side to which larger images are reduced"
    )
    parser.add_argument(
        "--split",
        metavar="SHARES",
        help="draw new splits: 0.9,0.1 for train and test, 0.8,0.1,0.1 for train, val and test; default: those of PATH",
    )
    parser.add_argument(
        "--group", metavar="COLUMN", help="column of a table; the images of a group are in the same split"
    )
    parser.add_argument(
        "--damaged", choices=("skip", "error"), default="skip", help="leave damaged images out, or stop with an error"
    )
    parser.add_argument(
        "--duplicates",
        choices=("near", "exact", "keep"),
        default="near",
        help="leave out copies and near-duplicates (near), copies of the same content alone (exact), or none (keep)",
    )
    parser.add_argument(
        "--per-task",
        type=int,
        default=IMAGES,
        metavar="N",
        help="images of a task; when the command is stopped, the tasks that are done are kept",
    )
    add_engine(parser, "local")
    parser.add_argument(
        "--data", metavar="CLASS", help="how PATH is read, with options --data.NAME; default: by what it looks like"
    )
    rest, options = divided(words)
    given = parser.parse_args(rest)
    if not LEAST <= given.size <= MOST:
        raise UserError([f"--size {given.size}: should be {LEAST} to {MOST} pixels"])
    if given.per_task < 1:
        raise UserError([f"--per-task {given.per_task}: should be at least 1"])
    kind = given.data or kind_of(given.path)
    if given.group:
        if kind != "ImageTable":
            raise UserError([f"--group {given.group}: only a table has columns, and {given.path} is read by {kind}"])
        options = {**options, "group_column": given.group}
    shares = choose.shares_of(given.split) if given.split else {}
    order = Order(given.path, given.out, given.to, given.size, shares, given.damaged, given.duplicates, given.per_task)
    data = declared(kind, options)
    with opened(given.engine, given.workers, given.scheduler) as engine:
        show(order, pack(order, data, engine))
    return 0


def pack(order: Order, data: ImageFiles, engine: Engine) -> dict[str, Any]:
    """Pack the images of a data set. Returns what pack.json holds. Raises UserError."""
    _refuse(order)
    refused: list[str] = []
    listing = data.listed(order.path, lambda error: refused.extend(error.lines))
    lines = [*refused, *(line for line in listing.refused if not _of_one_image(line, order))]
    if lines:
        raise DataError([*first(lines), "labbook check lists everything; correct this first"])
    recipe = {**asdict(order), "path": str(order.path.resolve()), "data": repr(data), "versions": versions()}
    del recipe["out"], recipe["per_task"]
    recipe["source"] = source = _fingerprint(order.path, listing)
    if (done := _finished(order, recipe)) is not None:
        return done
    try:
        with disk.as_data_error(order.work):
            make_folder(order.work)
        with disk.if_free(order.work / "lock") as free:
            if not free:
                raise UserError([f"another process is packing into {order.out}; wait for it, or stop it"])
            found = _reduced(order, data, listing, source, engine)
            made = _assembled(order, listing, found, engine, recipe)
        _clear(order.work)
        return made
    except OSError as error:
        if error.errno in NO_ROOM:
            raise _full(order, error) from None
        raise
    except KeyboardInterrupt:
        complain(f"stopped; what is done is kept in {order.work}: the same command continues")
        raise


def _refuse(order: Order) -> None:
    if library := FORMATS[order.to].library:
        extras.library(*library, f"--to {order.to}")
    out, path = order.out.resolve(), order.path.resolve()
    if out == path or out.is_relative_to(path):
        raise UserError([f"--out {order.out}: should be outside {order.path}, whose images are read"])
    if order.out.exists() and not order.out.is_dir():
        raise UserError([f"--out {order.out}: is a file; name a new folder"])
    if order.out.is_dir() and any(order.out.iterdir()) and not (order.out / PACKED).is_file():
        raise UserError([f"--out {order.out}: has other files in it; name a new folder"])


def _of_one_image(line: str, order: Order) -> bool:
    """Whether an error of the source is about one image, which may be left out."""
    return order.damaged == "skip" and isinstance(line, rows.OfOneRow)


def _fingerprint(path: Path, listing: Listing) -> str:
    """A digest of the names, classes, splits, groups, sizes and times of the images; contents are not read."""
    digest = hashlib.sha256(json.dumps([listing.tree.names, listing.places, listing.groups]).encode())
    if listing.data == "ImageTable":
        for _, file in listing.contents():
            digest.update(repr(_facts(file, "")).encode())
    else:
        digest.update(archive.fingerprint(path).encode())
    return digest.hexdigest()


def _facts(content: Any, source: str) -> object:
    """What changes with the content of an image: size and time of a file, or the fingerprint of the source."""
    if not isinstance(content, Path):
        return source
    try:
        status = content.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _finished(order: Order, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What pack.json holds, if the packed set is there. Raises UserError if it is of something else."""
    if not (order.out / PACKED).is_file():
        return None
    try:
        made: dict[str, Any] = json.loads((order.out / PACKED).read_text())
        before = made["recipe"]
    except (ValueError, KeyError, TypeError):
        raise UserError([f"{order.out / PACKED} is damaged; remove the folder, and run the command again"]) from None
    recipe = json.loads(json.dumps(recipe, default=str))
    if differing := [name for name in recipe if before.get(name) != recipe[name]]:
        what = ", ".join("the images" if name == "source" else name for name in differing)
        raise UserError([f"--out {order.out}: holds a set that differs in {what}; remove it, or name another folder"])
    say(f"{order.out} is finished; nothing was done")
    _clear(order.work)
    return made


def _reduced(order: Order, data: ImageFiles, listing: Listing, source: str, engine: Engine) -> Reduced:
    """The results of all tasks; those that are there are not computed again."""
    folder = order.work / "tasks"
    folder.mkdir(exist_ok=True)
    frame, count = Short(order.size, order.size, data.interpolation), len(listing.tree.names)
    tasks: list[tuple[str, list[int]]] = []
    with bar(f"reducing {count:,} images of {order.path.name}", count, "images") as advance:

        def missing() -> Iterator[Batch]:
            ready = 0
            for members, contents in _batches(listing, order.per_task):
                names = tuple(listing.tree.names[row] for row in members)
                key = key_of(names, [_facts(content, source) for content in contents], frame, data.conversion)
                tasks.append((key, members))
                if not (folder / key).is_dir():
                    yield Batch(folder, key, names, contents, frame, data.conversion, versions())
                    continue
                ready += len(members)
                advance(len(members))
            if ready:
                say(f"continued: {ready:,} of {count:,} images were reduced before")

        for done in engine.map(reduce, missing()):
            advance(done)
    return Reduced.read(folder, tasks, count)


def _batches(listing: Listing, most: int) -> Iterator[tuple[list[int], tuple[Content, ...]]]:
    """(rows, contents) of the images of each task: always the same for the same source."""
    members: list[int] = []
    contents: list[Any] = []
    size = 0
    for row, content in listing.contents():
        if members and (len(members) >= most or size >= BYTES):
            yield members, tuple(contents)
            members, contents, size = [], [], 0
        members.append(row)
        contents.append(content)
        size += len(content) if isinstance(content, bytes) else getattr(content, "nbytes", 0)
    if members:
        yield members, tuple(contents)


def _assembled(
    order: Order, listing: Listing, found: Reduced, engine: Engine, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Write the packed set beside its place, and move it there. Returns what pack.json holds."""
    left = choose.unusable(found, listing)
    wrong = [f"{printable(listing.tree.names[row])}: {reason}" for row, (_, reason) in sorted(left.why.items())]
    if wrong and order.damaged == "error":
        said = f"{len(wrong):,} of {len(found.rows):,} images cannot be packed; repair them, or add --damaged skip"
        raise DataError([f"{order.path}: {said}", *first(wrong)])
    if order.duplicates != "keep":
        choose.leave_out_copies(found, listing, left)
    if order.duplicates == "near":
        say("searching for near-duplicates")
        choose.leave_out_near(found, listing, left, engine, order.work / "near")
    chosen = _chosen(order, listing, found, left)
    disk.refuse_full(order.work, chosen.bytes, f"writing {order.out}", f"free some there; {_CONTINUES}")
    facts = [recipe, listing.tree.names, found.keys, chosen.rows.tolist(), chosen.splits, chosen.labels]
    name = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]
    folder = order.work / f"set-{name}"
    folder.mkdir(exist_ok=True)
    say(f"writing {len(chosen.rows):,} images")
    files = FORMATS[order.to].write(chosen, folder, engine)
    mistakes = [line for line in listing.refused if _of_one_image(line, order)]
    made = {
        "data": FORMATS[order.to].data,
        "digest": formats.digest_of(folder, files),
        "images": len(chosen.rows),
        "files": len(files),
        "left_out": dict(sorted(Counter([kind for kind, _ in left.why.values()] + ["row"] * len(mistakes)).items())),
        **statistics.statistics(chosen),
        "recipe": recipe,
    }
    names = listing.tree.names
    lost = [[names[row], *listing.places[row], kind, reason] for row, (kind, reason) in sorted(left.why.items())]
    lost += [["", "", "", "row", line] for line in mistakes]
    write_atomic(folder / LEFT, as_csv(("name", "split", "class", "kind", "reason"), lost))
    packed = [
        [chosen.key(at), names[chosen.rows[at]], split, label]
        for at, (split, label) in enumerate(zip(chosen.splits, chosen.labels, strict=True))
    ]
    write_atomic(folder / IMAGES_CSV, as_csv(("key", "name", "split", "class"), packed))
    write_atomic(folder / PACKED, json.dumps(made, indent=1, default=str) + "\n")
    place(folder, order.out)
    return made


def _chosen(order: Order, listing: Listing, found: Reduced, left: Left) -> Chosen:
    """The images that are packed. Raises DataError."""
    rest = left.rest(len(found.rows))
    names, wrong = labels.class_names(listing.places[row][1] for row in rest.tolist())
    if wrong or len(names) < 2:
        few = f"{len(rest):,} images in {len(names)} class{'es' * (len(names) != 1)} are left of {len(found.rows):,}"
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter(k for k, _ in left.why.values()).items())
        few += f" ({kinds} left out)" if kinds else ""
        raise DataError(wrong or [f"{order.path}: {few}; classification requires at least two classes"])
    formats.refuse_classes(order.to, names)
    splits = choose.divided(listing, rest, order.shares)
    _warn(listing, names, splits, [listing.places[row][1] for row in rest.tolist()])
    shuffled = randomness.permutation(0, 0, len(rest), "pack")  # shards are read in about their order
    rows_ = rest[shuffled]
    return Chosen(
        found,
        rows_,
        tuple(splits[at] for at in shuffled.tolist()),
        tuple(listing.places[row][1] for row in rows_.tolist()),
        listing.tree.names,
        names,
    )


def _warn(listing: Listing, names: Sequence[str], splits: Sequence[str], classes: Sequence[str]) -> None:
    """Print what training will refuse, or would not know."""
    counts = Counter(zip(splits, classes, strict=True))
    for split in sorted(set(splits)):
        if absent := [printable(name) for name in names if not counts[split, name]]:
            say(f"warning: {split} has no image of {', '.join(first(absent, 10))}")
    if gone := sorted({name for _, name in listing.places if name} - set(names)):
        say(f"warning: no image is left of {', '.join(first([printable(name) for name in gone], 10))}")
    if listing.groups and "val" not in splits:
        say("warning: training draws val without the groups, which a packed set does not hold; add --split 0.8,0.1,0.1")


_CONTINUES = "the same command continues"


def _full(order: Order, error: OSError) -> DataError:
    done = sum(1 for _ in (order.work / "tasks").glob("[!.]*")) if (order.work / "tasks").is_dir() else 0
    where = f" at {error.filename}" if error.filename else ""
    room = shutil.disk_usage(order.work).free
    return DataError(
        [
            f"disk full{where}: {done:,} tasks of up to {order.per_task:,} images are done and kept in {order.work}",
            f"{room:,} bytes are free there; free more, and {_CONTINUES}",
        ]
    )


def _clear(work: Path) -> None:
    """Remove what is left of the work on a finished set."""
    if work.is_dir():
        for each in (work / "tasks", work / "near", *work.glob("set-*")):
            shutil.rmtree(each, ignore_errors=True)
        (work / "lock").unlink(missing_ok=True)
        if not any(work.iterdir()):
            work.rmdir()


def show(order: Order, made: dict[str, Any]) -> None:
    """Print what was packed."""
    each = ", ".join(
        f"{'not split' if name == 'all' else name} {of['images']:,}" for name, of in made["splits"].items()
    )
    tell(f"{order.out}: {made['images']:,} images ({each}), {len(made['classes']):,} classes, {made['files']:,} files")
    tell(f"{made['reduced']:,} reduced to {order.size} pixels, {made['copied']:,} copied")
    if made["left_out"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in made["left_out"].items())
        tell(f"left out: {kinds}; listed in {order.out / LEFT}")
    tell(f"digest: {made['digest']}")
    root = os.path.normpath(order.out / FORMATS[order.to].root)
    size = max(LEAST, order.size * 7 // 8)
    words = f"--data {made['data']} --data.size {size} --root {root} --normalize {statistics.normalize(made)}"
    tell(f"train on it: python -m experiments.folder_train {words}")

"""Labels: what a user says about a run at any time: its name, a note, tags, and whether it is archived.

labels.jsonl in the folder of a run is a journal of "tags" events (core/record/journal.py) with a lock of its own,
because only its trainer may write to the journal of a run that is being trained. The last text of a label stands; an
empty one removes it. The mirror sends these tags to MLflow as it sends those of the journal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.record import journal
from core.record.lock import locked
from core.record.run import LABELS, RecordedRun

LOCK = "labels.lock"
PATIENCE = 60.0  # seconds to wait for another process that writes labels of the same run
NAME, NOTE = "mlflow.runName", "mlflow.note.content"  # MLflow's own tags for what its pages show as name and note
ARCHIVED = "labbook.archived"
LONGEST_NAME, LONGEST_TAG = 250, 250  # characters; limits of MLflow
_PREFIXES = ("mlflow.", "labbook.", "launch.", "hardware.", "version.", "git.", "imported.", "search.", "failed_")
_OWN = frozenset(
    "variant trial study invocation seed seeds folds smoke precision compiled parameters flops continued best_epoch "
    "epochs_done error report resumed_elsewhere pruned paused micro_batches overfit combined members".split()
)


@dataclass(frozen=True)
class Labels:
    """What a user says about a run. tags: without the tags that labbook writes."""

    name: str = ""
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    archived: bool = False

    def as_object(self) -> dict[str, Any]:
        """The labels as JSON."""
        return asdict(self)


def labels(folder: Path) -> Labels:
    """The labels of the run in a folder; most runs have none. Raises UserError if labels.jsonl is damaged."""
    if not (folder / LABELS).exists():
        return Labels()
    texts: dict[str, str] = {}
    for _, event in journal.read(folder, LABELS):
        if event["event"] == "tags":
            texts |= event["values"]
    name, note, archived = (texts.pop(key, "") for key in (NAME, NOTE, ARCHIVED))
    return Labels(name, note, {key: text for key, text in texts.items() if text}, bool(archived))


def write_labels(folder: Path, texts: Mapping[str, str]) -> None:
    """Append labels of a run, which may be trained meanwhile. texts: by NAME, NOTE, ARCHIVED, or a tag's name. Raises
    UserError if the run was removed meanwhile, or if its folder cannot be written."""
    try:
        with locked_labels(folder):
            if not (folder / journal.FILE).exists():  # the folder was removed while its lock was waited for
                raise FileNotFoundError
            file = journal.Journal(folder, LABELS)
            try:
                file.write("tags", values=dict(texts))
            finally:
                file.close(None)
    except FileNotFoundError:
        raise UserError([f"{folder.name}: this run was removed meanwhile"]) from None
    except OSError as error:
        raise UserError([f"{folder / LABELS}: {error.strerror or error}"]) from None


def locked_labels(folder: Path) -> AbstractContextManager[None]:
    """Context manager: hold the lock of the labels of a run. Raises UserError if another process keeps it."""
    return locked(folder, PATIENCE, LOCK)


def tag_texts(words: Iterable[str]) -> dict[str, str]:
    """Tag -> text, of words NAME=TEXT; an empty text removes the tag. Raises UserError with a line for each mistake."""
    found: dict[str, str] = {}
    wrong: list[str] = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            wrong.append(f"{word}: a tag is written NAME=TEXT, such as stage=paper; NAME= removes it")
        elif reason := refusal(name):
            wrong.append(f"{word}: {reason}")
        elif name in found:
            wrong.append(f"{name}: given twice")
        found[name] = text
    if wrong:
        raise UserError(wrong)
    return found


def refusal(name: str) -> str:
    """Why a tag cannot have this name; empty if it can."""
    if name in _OWN or name.startswith(_PREFIXES):
        return f"the tag {name} is reserved: labbook or MLflow writes it; choose another name, such as my_{name}"
    if not re.fullmatch(r"\w[\w.-]*", name) or len(name) > LONGEST_TAG:
        return f"a tag's name has letters, digits, _, - and ., at most {LONGEST_TAG} characters"
    return ""


def own_tags(run: RecordedRun, names: Iterable[str]) -> list[str]:
    """A line about each name that is a tag of labbook's in this run, as tags of older versions or of a part may be."""
    taken = run.tags
    return [f"{name}: {run.id} has this tag from its training; choose another name" for name in names if name in taken]


def checked_name(name: str) -> str:
    """The name of a run, which need not be unique. Raises UserError."""
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        raise UserError([f"{name!r}: a name is one line of at most {LONGEST_NAME} characters, and not empty"])
    return name

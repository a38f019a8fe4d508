"""A folder in the layout of the Hugging Face hub: model card, weights, what loads them, answers, and the record."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.common.files import make_folder, place
from core.export import public_record, script, timm_folder, torch_engine
from core.export.card import card
from core.export.export import refuse
from core.export.formats import FORMATS
from core.export.graph import exported
from core.inference.answers import missing, name_of, read
from core.inference.network import model_of
from core.models.timm_weights import CONFIG
from core.record.run import RECORD, WEIGHTS, RecordedRun
from core.record.secret_scan import suspicious

CARD = "README.md"
_COMMAND = "the command"


@dataclass(frozen=True)
class Published:
    """A folder that was written. reason: why timm does not load it, or an empty text.  left_out: {what: why}.  groups:
    whether the answers name the groups of images, such as patients."""

    folder: Path
    reason: str
    left_out: Mapping[str, str]
    groups: bool


def publish(run: RecordedRun, folder: Path, conversion: Mapping[str, Any]) -> Published:
    """Write the folder of a finished run: there as a whole, or not at all.

    conversion: how images are converted; see data/predict/conversion.py. Raises UserError if the folder is not empty,
    if the run has no weights or is the parent of others, if torch.export does not support a network that timm does not
    load, and if the card looks as if it held a secret.
    """
    refuse(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError([f"{folder} is not an empty folder; choose another one"])
    network = model_of(run)
    folder = folder.absolute()
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        shutil.copy(run.artifact(WEIGHTS), made / torch_engine.WEIGHTS)
        files = {torch_engine.WEIGHTS: "weights of the best epoch"}
        if reason := timm_folder.write(made, run, network, conversion):
            files |= _write_program(made, run, conversion)
        else:
            files[CONFIG] = "architecture, classes and preparation of images, as timm reads them"
        named, groups = _write_answers(made, run)
        recorded, left_out = _write_record(made, run)
        command = run.record["facts"].get("mlflow.source.name", "")
        if found := suspicious({_COMMAND: command.encode()}):
            left_out |= found
            command = ""
        size = sum(weight.numel() for weight in network.parameters())
        text = card(run, size, conversion, reason, files | named | recorded, public_record.shown(command))
        if found := suspicious({CARD: text.encode()}):
            raise UserError([f"{CARD}: {found[CARD]}; change the description or the classes of the experiment"])
        (made / CARD).write_text(text)
        made.chmod(0o755)
        place(made, folder)
    return Published(folder, reason, left_out, groups)


def _write_program(made: Path, run: RecordedRun, conversion: Mapping[str, Any]) -> dict[str, str]:
    kind = FORMATS["pt2"]
    facts = {"run": run.id, "classes": run.record["data"]["classes"], "multi_label": run.multi_label, **conversion}
    told = json.dumps({**facts, "format": kind.name, "precision": kind.precision})
    torch_engine.write_program(exported(run), made, told)
    script.write(made, kind, run.multi_label)
    return {torch_engine.PROGRAM: "the network as a program of torch", script.NAME: "labels image files with it"}


def _write_answers(made: Path, run: RecordedRun) -> tuple[dict[str, str], bool]:
    """({name: what it is} of the answers on record, whether they name groups)."""
    files, groups = {}, False
    for split in ("val", "test"):
        if not missing(run, split):
            name = name_of(split)
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copy(run.artifact(name), made / name)
            files[name] = f"id (a digest of the pixels), target and logits of each {split} image"
            groups = groups or read(run, split).groups is not None
    return files, groups


def _write_record(made: Path, run: RecordedRun) -> tuple[dict[str, str], dict[str, str]]:
    texts, left_out = public_record.files(run)
    what = {RECORD: "declaration, data, code and machine", "history.csv": "each metric at each step"}
    (made / public_record.FOLDER).mkdir()
    for name, text in texts.items():
        (made / public_record.FOLDER / name).write_text(text)
    return {f"{public_record.FOLDER}/{name}": what.get(name, "installed packages") for name in texts}, left_out

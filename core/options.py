"""The words of a command line as a declaration and a launch; all errors are reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from core.common.errors import UserError
from core.common.spellings import OPTIONS
from core.common.text import did_you_mean, suggestion
from core.declare.changes import changed
from core.declare.part import Part
from core.declare.renamed import hint
from core.declare.tree import names
from core.experiment import Experiment
from core.launch import Launch
from core.loading.folds import Folds
from core.record.labels import checked_name, tag_texts
from core.runs.trained import Run, load, read_declaration

NO_VARIANTS = "; this experiment declares no VARIANTS"
OWN = {
    "variant": "a named change of the declaration",
    "seeds": "number of seeds to train, under one parent run; decided: until it is known which --variant A,B is better",
    "folds": "number of folds to cross-validate on, under one parent run; 5x4: four times, with other partitions",
    "from": "start from the declaration of this run, search or best.json; other options change it",
    "processes": "start this many processes on this machine, which train one run; with GPUs, one for each",
    "name": "name of the run, for people; labbook rename changes it later",
    "tags": "tags of the run, NAME=TEXT,NAME=TEXT; labbook tag changes them later",
    "continue": "train this finished run for longer: start from its declaration, weights and optimizer state",
}


@dataclass(frozen=True)
class Options:
    """What a command line asks for. auto_batch: batch_size is to be found by trial."""

    experiment: Experiment
    launch: Launch
    variant: str | None = None
    seeds: int | None = None  # none: not given
    folds: Folds | None = None
    title: str = "base"
    continued: Run | None = None
    verb: Part | None = None
    auto_batch: bool = False
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    processes: int | None = None  # none: not given


def parse(
    words: Sequence[str],
    experiment: Experiment,
    variants: Mapping[str, Mapping[str, Any]],
    verb: Part | None = None,
) -> Options:
    """Raises UserError with every error, nearest spellings named. verb: its fields are options too."""
    given, wrong = pairs(words)
    verbs = type(verb).model_fields if verb else {}
    verb, trouble = change(verb, {n: given.pop(n) for n in list(given) if n in verbs}) if verb else (verb, [])
    wrong += trouble
    own = {name: given.pop(name) for name in list(given) if name in OWN}
    if auto_batch := given.get("batch_size") == "auto":
        del given["batch_size"]
    continued, trouble = _finished(own)
    wrong += trouble
    recorded, trouble = _declared(own)
    wrong += trouble
    experiment = continued.experiment if continued else recorded or experiment
    variant = own.get("variant")
    if "variant" in own and variant is None:
        wrong.append("--variant: needs a value")
    elif variant is not None and variant not in variants:
        wrong.append(_unknown_variant(variant, variants))
    else:
        experiment = experiment.but(variants[variant]) if variant else experiment
    known = [*names(experiment), *Launch.model_fields, *OWN, *verbs]
    for name in list(given):
        if name.split(".")[0] not in Experiment.model_fields and name not in Launch.model_fields:
            wrong.append(f"--{name}: unknown option{_hint(name, known)}")
            del given[name]
    changed, mistakes = change(experiment, {n: v for n, v in given.items() if n not in Launch.model_fields})
    launch, more = change(Launch(), {n: v for n, v in given.items() if n in Launch.model_fields})
    processes, processes_trouble = positive("processes", own["processes"]) if "processes" in own else (None, [])
    seeds, more_trouble = positive("seeds", own["seeds"]) if "seeds" in own else (None, [])
    folds, folds_trouble = _folds(own, changed) if "folds" in own else (None, [])
    name, tags, labels_trouble = _labels(own)
    wrong += [*mistakes, *more, *more_trouble, *processes_trouble, *folds_trouble, *labels_trouble]
    if launch.flat()["together"] and (seeds or 1) < 2:
        wrong.append("--together: trains several seeds at once; add --seeds N, at least 2")
    if launch.flat()["together"] and processes:
        wrong.append("--together: trains all seeds in one process; leave out --processes")
    if wrong:
        raise UserError(wrong)
    start = f"{continued.id} continued" if continued else variant or "base"
    start = f"from {_run_in(Path(str(own['from'])))}" if recorded else start
    title = " ".join([start, *(f"{n}={v}" for n, v in given.items() if n not in Launch.model_fields)])
    return Options(changed, launch, variant, seeds, folds, title, continued, verb, auto_batch, name, tags, processes)  # type: ignore[arg-type]


def _labels(own: Mapping[str, str | None]) -> tuple[str, dict[str, str], list[str]]:
    """(the name and the tags of the run, what is wrong)."""
    name, tags, wrong = "", dict[str, str](), list[str]()
    try:
        name = checked_name(own["name"] or "") if "name" in own else ""
    except UserError as mistakes:
        wrong += [f"--name: {line}" for line in mistakes.lines]
    try:
        tags = tag_texts((own["tags"] or "").split(",")) if "tags" in own else {}
    except UserError as mistakes:
        wrong += [f"--tags: {line}" for line in mistakes.lines]
    return name, tags, wrong


def _run_in(place: Path) -> str:
    """The run in the argument of --from, which may be the path of a file of its artifacts."""
    return place.absolute().parts[-3] if place.is_file() and len(place.absolute().parts) > 3 else place.name


def _declared(own: Mapping[str, str | None]) -> tuple[Experiment | None, list[str]]:
    """(the declaration to start from, what is wrong)."""
    if "from" not in own:
        return None, []
    place = own["from"] or ""
    try:
        if "continue" in own:
            raise UserError(["--continue has a declaration of its own; leave out one of the two"])
        return read_declaration(place), []
    except UserError as mistakes:
        return None, [f"--from {place}".rstrip() + f": {line}" for line in mistakes.lines]


def _finished(own: Mapping[str, str | None]) -> tuple[Run | None, list[str]]:
    """(the run to continue, what is wrong)."""
    if "continue" not in own:
        return None, []
    try:
        if several := [name for name in ("seeds", "folds") if name in own]:
            raise UserError([f"continues one run with the seed of that run and its splits; leave out --{several[0]}"])
        run = load(own["continue"] or "")
        return (run, []) if run.experiment else (None, [])
    except UserError as mistakes:
        return None, [f"--continue {own['continue'] or ''}".rstrip() + f": {line}" for line in mistakes.lines]


def pairs(words: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """--name value, --name=value, or a bare --name (None) -> {name: value}."""
    given: dict[str, Any] = {}
    wrong: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word == "--":
            wrong.append(_stray(word))
            if word.startswith("-") and rest and not rest[0].startswith("-"):
                rest.pop(0)  # its value
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else None  # type: ignore[assignment]
        if name in given:
            wrong.append(f"--{name}: given twice")
        given[name] = value
    return given, wrong


def _stray(word: str) -> str:
    """What is wrong with a word where an option is expected."""
    name, equals, value = word.lstrip("-+~").partition("=")
    if equals:  # Hydra's form
        return f"{word}: options are written --{name} {value}"
    if word.startswith("-"):
        return f"{word}: unknown option; {OPTIONS.get(name, 'options are written --name value')}"
    return f"{word}: unexpected word; options are written --name value"


def _hint(name: str, known: Sequence[str]) -> str:
    """The end of a message about an option that is unknown: its new name, what to do instead, or similar names."""
    if new := hint(Experiment, name, "--"):
        return new
    return f"; {OPTIONS[name]}" if name in OPTIONS else did_you_mean(name, known, "--")


def change(part: Part, given: Mapping[str, str | None]) -> tuple[Part, list[str]]:
    """(the part with the fields that options name, what is wrong with the others)."""
    changes: dict[str, Any] = {}
    wrong: list[str] = []
    for name, text in given.items():
        try:
            changes[name] = _value(part, name, text)
        except ValueError as error:
            wrong.append(f"--{name} {text or ''}".rstrip() + f": {error}")
    try:
        return changed(part, changes, "option", "--"), wrong
    except UserError as mistakes:
        return part, wrong + mistakes.lines


def _value(part: Part, name: str, text: str | None) -> Any:
    """The text of one option as a value that a Part takes. Raises ValueError."""
    if text is None:
        field = type(part).model_fields.get(name)
        if isinstance(part.flat().get(name), bool) or (field and bool in get_args(field.annotation)):
            return True
        raise ValueError("needs a value")
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"not JSON: {error}") from None
    return text


def _unknown_variant(variant: str, variants: Mapping[str, Any]) -> str:
    if "," in variant and set(variant.split(",")) <= set(variants):
        return f"--variant {variant}: several variants are taken with --seeds decided alone; give one"
    return f"--variant {variant}: unknown variant{suggestion(variant, variants) or NO_VARIANTS}"


def positive(name: str, text: str | None) -> tuple[int, list[str]]:
    """(the positive integer of an option, what is wrong)."""
    if text is not None and text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text), []
    got = "" if text is None else f" (got {text!r}){did_you_mean(text, ['decided'])}"
    return 1, [f"--{name}: should be a positive integer{got}"]


def _folds(own: Mapping[str, str | None], declared: Part) -> tuple[Folds | None, list[str]]:
    """(the folds that are asked for, what is wrong)."""
    wrong = []
    if "seeds" in own:
        wrong.append("--folds: not together with --seeds; each repetition of --folds 5x4 has a seed of its own")
    if getattr(declared, "fold", None):
        wrong.append("--folds: the declaration is of a single fold; add --fold none")
    try:
        return Folds.read(own["folds"] or ""), wrong
    except ValueError as error:
        return None, [f"--folds: {error}", *wrong]

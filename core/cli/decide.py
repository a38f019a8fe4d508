"""labbook decide A ... B: train seeds of A and B until it is decided which is better; the same command continues.

This file is the command line of `decide`, of `accept`, and of `--seeds decided`; core/runs/decide.py is the procedure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.catalogue import experiments, import_data, package_of
from core.cli.exits import guarded
from core.cli.find_experiment import NamedExperiment, imported, only_one
from core.common.errors import Interrupted, Unfinished, UserError
from core.common.ranks import ranks_here
from core.common.terminal import complain, tell
from core.launch import Launch
from core.options import Options, pairs
from core.runs.decision import Decide, Setting
from core.runs.trained import load

if TYPE_CHECKING:
    from core.runs.decide import Decision

AGAIN = "type the same command again to continue"
BASE = "base"
SEEDS = "decided"  # the value of --seeds
USAGE = """usage: labbook decide SETTING ... SETTING [--option value ...]

Trains seeds of each setting and of the last one until it is decided whether one of the two is better. SETTING is
EXPERIMENT, EXPERIMENT/VARIANT, or a run, whose declaration it is. Other options are those of a training, and
hold for all settings. Of one experiment: python -m experiments.NAME --variant A,B --seeds decided --against base.

  labbook decide digits_augment/affine digits_augment --least 0.3
"""


@dataclass(frozen=True)
class Asked:
    """What a command line asks for. given: the options of the decision that it sets.  as_json: print JSON alone."""

    settings: tuple[Setting, ...]
    against: Setting
    options: Decide
    given: dict[str, Any]
    launch: Launch
    as_json: bool


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    if show_help(words, USAGE):
        return 0
    return run(parse("decide", words))


def show_help(words: Sequence[str], usage: str) -> bool:
    """Show the help of a verb if it is asked for. Returns whether it is."""
    if "--help" not in words and "-h" not in words:
        return False
    from core.cli.help import fields
    from core.common.layout import Group, Row, show

    as_json = Row("--json", "", "print the result as JSON, and everything else to standard error")
    show(usage, [Group("Options of the decision", (*fields(Decide()), as_json))])
    return True


def parse(verb: str, words: Sequence[str]) -> Asked:
    """Read the command line of a verb that names settings. Raises UserError with every error."""
    rest, as_json = _without_json(words)
    named = 0
    while named < len(rest) and not rest[named].startswith("-"):
        named += 1
    if named < 2:
        raise UserError([f"two settings are needed; usage: labbook {verb} SETTING ... SETTING [--option value ...]"])
    import_data()
    return _asked([(word, *_named(word)) for word in rest[:named]], rest[named:], verb, as_json)


def parse_variants(experiment: NamedExperiment, words: Sequence[str]) -> Asked:
    """Read the command line of an experiment with --seeds decided. Raises UserError with every error."""
    rest, as_json = _without_json(words)
    own, rest = _taken(rest, ("seeds", "variant", "against"))
    variants = [name.strip() for name in (own.get("variant") or "").split(",") if name.strip()]
    if not variants:
        raise UserError(["--seeds decided: name the variants that are decided on: --variant A,B"])
    each = [(name, experiment, _variant(experiment, name)) for name in (*variants, own.get("against") or BASE)]
    return _asked(each, rest, "--seeds decided", as_json)


def is_decided(words: Sequence[str]) -> bool:
    """Whether a command line has --seeds decided."""
    return _taken(words, ("seeds",))[0].get("seeds") == SEEDS


def run(asked: Asked) -> int:
    """Decide, and print the result. Returns the exit status."""

    def procedure() -> Decision:
        from core.runs.decide import decide
        from core.runs.decision import plan_of

        return decide(plan_of(asked.settings, asked.against, asked.options), asked.launch)

    found, status = decided(asked, procedure)
    if found is None:
        return status
    if asked.as_json:
        print(json.dumps(found.as_object(), indent=1))
        return 0
    show(found)
    return 0


def decided(asked: Asked, procedure: Callable[[], Decision]) -> tuple[Decision | None, int]:
    """(the decision, 0), or (None, exit status) if the training ended early, which is said. Raises UserError."""
    found: list[Decision] = []

    def action() -> int:
        try:
            found.append(procedure())
        except Interrupted as error:
            complain(f"\n{error}; {AGAIN}")
            return 128 + error.number
        except Unfinished as error:
            complain(f"\nstopped: {error}; {AGAIN}")
            return 1
        return 0

    with redirect_stdout(sys.stderr) if asked.as_json else nullcontext():
        status = guarded(f"python -m experiments.{asked.against.info.experiment}", action)
    return (found[0] if found else None), status


def show(found: Decision) -> None:
    """Print the table and a sentence for each pair."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from core.common.terminal import console
    from core.compare.table import format_value

    metric, rule = found.plan.metric, found.plan.rule
    grid = Table(title=f"{metric}, decision {found.plan.id}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("setting", "seeds", "difference", "interval", "verdict"):
        grid.add_column(heading, justify="left" if heading in ("setting", "verdict") else "right")
    for pair in found.pairs:
        look = pair.look
        numbers = [format_value(metric, x) for x in (look.mean, look.low, look.high)] if look else ["", "", ""]
        interval = f"[{numbers[1]}, {numbers[2]}]" if look else ""
        grid.add_row(pair.setting, str(look.n if look else 0), numbers[0], interval, pair.verdict)
    grid.add_row(found.plan.against.label, str(len(found.members[-1].values)), "", "", "all others against it")
    console().print(grid, highlight=False)
    for pair in found.pairs:
        tell(pair.sentence(rule.least))
    for member in found.members:
        for seed, error in sorted(member.failed.items()):
            tell(f"{member.setting.label}: seed {seed} failed: {error}")
    tell(f"with 95 %, all intervals are right at all looks of up to {rule.budget} seeds; plan: {found.plan.folder}")


def _without_json(words: Sequence[str]) -> tuple[list[str], bool]:
    rest = [word for word in words if word != "--json"]
    return rest, len(rest) < len(words)


def _taken(words: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """(the options of these names, all other words)."""
    rest, own = list(words), list[str]()
    for place in reversed(range(len(rest))):
        name = rest[place].removeprefix("--").partition("=")[0]
        if rest[place].startswith("--") and name in names:
            valued = "=" in rest[place] or place + 1 == len(rest) or rest[place + 1].startswith("--")
            count = 1 if valued else 2
            own = rest[place : place + count] + own
            del rest[place : place + count]
    found, wrong = pairs(own)
    if wrong:
        raise UserError(wrong)
    return found, rest


def _named(word: str) -> tuple[NamedExperiment, list[str]]:
    """(the experiment of a setting, the options that make the setting). Raises UserError."""
    name, slash, variant = word.partition("/")
    if name in experiments():
        experiment = NamedExperiment(imported(package_of(name)))
        return experiment, _variant(experiment, variant) if slash else []
    try:
        run = load(word)
    except UserError as mistakes:
        raise UserError([f"{word}: neither EXPERIMENT, EXPERIMENT/VARIANT nor a run: {mistakes}"]) from None
    return NamedExperiment(imported(package_of(run.record["experiment"]))), ["--from", run.id]


def _variant(experiment: NamedExperiment, name: str) -> list[str]:
    return [] if name == BASE and BASE not in experiment.variants else ["--variant", name]


def _asked(
    each: Sequence[tuple[str, NamedExperiment, list[str]]], rest: Sequence[str], verb: str, as_json: bool
) -> Asked:
    """The settings and options of a command line. each: label, experiment and own words of each setting, the one that
    the others are compared with last.  rest: the other words."""
    if ranks_here().ranks > 1:
        raise UserError([f"{verb}: it trains in one process; leave out torchrun"])
    found: list[tuple[str, NamedExperiment, Options]] = []
    wrong: dict[str, None] = {}
    for label, experiment, own in each:
        try:
            options = experiment.parse([*own, *rest], Decide())
            only_one(options, verb)
        except UserError as mistakes:
            wrong |= dict.fromkeys(mistakes.lines)
        else:
            found.append((label, experiment, options))
    if wrong:
        raise UserError(wrong)
    settings = [_setting(*one, "seed" in pairs(rest)[0]) for one in found]
    options = found[0][2]
    assert isinstance(options.verb, Decide)
    given = {name: getattr(options.verb, name) for name in pairs(rest)[0] if name in Decide.model_fields}
    return Asked(tuple(settings[:-1]), settings[-1], options.verb, given, options.launch, as_json)


def _setting(label: str, experiment: NamedExperiment, options: Options, seed_given: bool) -> Setting:
    from core.common.ranks import ALONE
    from core.training.smoke import declared

    declaration = declared(options.experiment, options.launch, ALONE)
    if not seed_given:  # that of a run is one of many
        declaration = declaration.but({"seed": experiment.experiment.seed})
    return Setting(label, declaration, experiment.info(options))

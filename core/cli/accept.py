"""labbook accept A --over B: whether A is shown to be better than B: exit status 0 for yes, 1 for no; for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.cli.decide import AGAIN, decided, parse, show_help
from core.common.errors import UserError
from core.common.terminal import complain, tell

if TYPE_CHECKING:
    from core.runs.decide import Decision

FAILED = 3  # exit status: the question has no answer, because a training failed
USAGE = """usage: labbook accept SETTING --over SETTING [--option value ...]

Answers whether the first setting is shown to be better: yes with exit status 0, no with 1. It decides as labbook decide
does, by the plan on record for these settings, or by a new one, and trains the seeds that are missing. Status 3 means
that a training failed, so that there is no answer. SETTING is EXPERIMENT, EXPERIMENT/VARIANT, or a run.

  labbook accept digits_augment/affine --over digits_augment --least 0.3 --budget 20
"""


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    if show_help(words, USAGE):
        return 0
    asked = parse("accept", in_order(words))

    def procedure() -> Decision:
        from core.runs.decide import decide
        from core.runs.decision import plan_of_pair

        return decide(plan_of_pair(asked.settings[0], asked.against, asked.given), asked.launch)

    found, status = decided(asked, procedure)
    if found is None:
        if status == 1:
            complain(f"no answer; {AGAIN}")
        return FAILED if status == 1 else status
    [pair] = found.pairs
    accepted = pair.winner == pair.setting
    if asked.as_json:
        print(json.dumps({"accepted": accepted, **found.as_object()}, indent=1))
    else:
        tell(f"{'yes' if accepted else 'no'}: {pair.sentence(found.plan.rule.least)}")
    return 0 if accepted else 1


def in_order(words: Sequence[str]) -> list[str]:
    """The words with the setting after --over in the second place. Raises UserError."""
    rest = [word for given in words for word in (given.split("=", 1) if given.startswith("--over=") else [given])]
    place = rest.index("--over") if "--over" in rest else len(rest)
    if len(rest) <= place + 1 or not rest or rest[0].startswith("-") or rest[place + 1].startswith("-"):
        raise UserError(["usage: labbook accept SETTING --over SETTING [--option value ...]"])
    over = rest[place + 1]
    del rest[place : place + 2]
    if rest[1:] and not rest[1].startswith("-"):
        raise UserError([f"{rest[1]}: unexpected word; accept answers for one setting"])
    return [rest[0], over, *rest[1:]]

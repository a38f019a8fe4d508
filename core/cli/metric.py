"""labbook metric RUN ... --metric NAME: compute metrics of finished runs from their answers, without their networks.

NAME is accuracy, balanced_accuracy, precision, recall, f1, top5, nll, ece, brier, auroc, average_precision,
cohen_kappa or matthews_corrcoef; for multi-label runs accuracy, map, f1, auroc or average_precision; or the class of a
metric, in labbook or in the folder of the experiment, such as TopK; or a class in torchmetrics.classification, such as
MulticlassCalibrationError. RUN may also be the parent of several seeds or folds, or an experiment; the mean is given
if all runs repeat one setting. Of the parent of folds, --split oof takes the out-of-fold answers, one for each image.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from core.catalogue import import_experiment
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.statistics import mean_and_interval
from core.common.terminal import tell
from core.inference.answers import OUT_OF_FOLD, read
from core.metrics.by_name import OWN, compute
from core.record.run import RecordedRun, holds_others, intact


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("metric", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run, parent of seeds or folds, or experiment")
    parser.add_argument("--metric", action="append", required=True, metavar="NAME", help="can be given several times")
    parser.add_argument("--split", default="test", choices=("val", "test", OUT_OF_FOLD), help="split of the data")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="NAME=VALUE", help="argument of a metric that is a class"
    )
    given = parser.parse_args(list(words))
    arguments = dict(map(_argument, given.argument))
    find = tested_runs if given.split != OUT_OF_FOLD else _itself
    runs = [run for name in given.run for run in find(name)]
    names = [name.lower() if name.lower() in OWN else name for name in given.metric]
    columns: list[list[float]] = [[] for _ in names]
    for experiment in {run.record["experiment"] for run in runs} if any(name[:1].isupper() for name in names) else ():
        import_experiment(experiment)
    for run in runs:
        answers = read(run, given.split)
        for name, column in zip(names, columns, strict=True):
            column.append(compute(answers, name, arguments if name[:1].isupper() else None))
    width, widths = max(len(run.id) for run in runs), [max(12, len(name)) for name in names]
    tell(f"{'':{width}}  {'  '.join(f'{name:>{w}}' for name, w in zip(names, widths, strict=True))}")
    for run, *values in zip(runs, *columns, strict=True):
        tell(f"{run.id:{width}}  {'  '.join(f'{value:{w}.6f}' for value, w in zip(values, widths, strict=True))}")
    if len(runs) > 1 and len({_setting(run) for run in runs}) == 1:
        for name, column in zip(names, columns, strict=True):
            overlap = _overlap(runs)
            mean, _, half = mean_and_interval(column, overlap)
            interval = f"{'corrected ' if overlap else ''}95 % interval"
            tell(f"{given.split}/{name}: {mean:.6f} +- {half:.6f} (mean and {interval}, n = {len(column)})")
    return 0


def _setting(run: RecordedRun) -> str:
    """The declaration without what repeats of one setting differ in: the seed, and the number of the fold."""
    declared = dict(run.record.get("declaration") or {"run": run.id})
    fold = declared.get("fold") or {}
    return json.dumps(declared | {"seed": None, "fold": fold.get("folds")}, sort_keys=True)


def _overlap(runs: Sequence[RecordedRun]) -> float:
    """The correction of the interval of the mean, if the runs are folds; see `mean_and_interval`."""
    folds = [(run.record.get("declaration") or {}).get("fold") for run in runs]
    return max((1 / (fold["folds"] - 1) for fold in folds if fold), default=0.0)


def _itself(name: str) -> list[RecordedRun]:
    return [RecordedRun.load(name)]


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError([f"--argument {text}: expected NAME=VALUE"])
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # text


def tested_runs(name: str) -> list[RecordedRun]:
    """The finished runs that a name stands for. Raises UserError if there are none."""
    try:
        found = [RecordedRun.load(name)]
    except UserError:
        found = list(intact(RecordedRun.of_experiment(name)))
        if not found:
            raise
    whole = [run for each in found for run in ([*each.children()] if holds_others(each.record) else [each])]
    finished = list({run.id: run for run in whole if run.is_tested or run.multi_label}.values())
    if not finished:
        raise UserError([f"{name}: none of its runs has been tested"])
    return finished

"""What the parent of folds records of them together: an answer for each image from a run that did not train on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from core.common.errors import UserError
from core.inference.answers import OUT_OF_FOLD, log_answers, name_of, read
from core.inference.average import mean_answers
from core.metrics.answers import Answers, by_content, joined
from core.metrics.by_name import compute
from core.metrics.names import of_tasks
from core.record.journal import Journal
from core.runs.trained import Run

METRICS = ("accuracy", "balanced_accuracy", "f1", "nll", "ece", "map")


def out_of_fold(runs: Sequence[Run]) -> Answers:
    """The answers of the runs of all folds for their val splits, sorted by content; of several repetitions, with the
    mean of their probabilities. Raises UserError if a run has no answers."""
    repetitions = defaultdict(list)
    for run in runs:
        repetitions[run.record["declaration"]["fold"]["repeat"]].append(read(run, "val"))
    return mean_answers([by_content(joined(parts, OUT_OF_FOLD)) for parts in repetitions.values()])


def log_out_of_fold(journal: Journal, runs: Sequence[Run]) -> None:
    """Record the out-of-fold answers and their metrics. Raises UserError if a run has no answers."""
    answers = out_of_fold(runs)
    log_answers(journal, name_of(OUT_OF_FOLD), answers)
    values = {}
    for name in (*METRICS, *of_tasks([task for task, _ in answers.tasks])):
        with suppress(UserError):  # not defined for these answers
            values[f"{OUT_OF_FOLD}/{name}"] = compute(answers, name)
    journal.metrics(len(runs), values)

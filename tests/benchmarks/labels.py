"""How many wrong labels does `labbook check --run` find? Digits whose labels are wrong by a known amount.

    python -m tests.benchmarks.labels                   5, 10, 20 % wrong, 3 seeds, 10 epochs; minutes
    python -m tests.benchmarks.labels --seeds 2 --epochs 5

For each seed, which decides both the noise and the training: a single run judges all images for training and
validation, some of which it was trained on (the method of a single run); the parent of five folds judges them by its
out-of-fold answers (confident learning through cleanlab). Average precision is that of the list of suspects, most
suspect first, with all other images behind it; precision and recall are those of the list.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.common.statistics import mean_and_interval
from core.inference.answers import OUT_OF_FOLD, ask, read
from core.inference.network import network_of
from core.launch import Launch
from core.loading.folds import Folds
from core.loading.images import Splits
from core.loading.sampling import LabelNoise
from core.metrics.answers import by_content
from core.runs.seeds import train_folds
from core.runs.train import train
from data import Digits
from data.check.labels import confident_learning, disagreeing, outlined
from experiments.digits_cnn import EXPERIMENT

FRACTIONS = (0.05, 0.1, 0.2)


class WrongDigits(Digits):
    """Digits, some of whose labels for training and validation are wrong, so that a run cannot know the truth."""

    wrong: LabelNoise = LabelNoise()

    def load(self, root: Path | None) -> Splits:
        splits = super().load(root)
        train, val = (self.wrong(images, len(splits.classes)) for images in (splits.train, splits.val))
        return replace(splits, train=train, val=val, digest=f"{splits.digest[:32]} {self.wrong.record()}")


def scored(suspects: np.ndarray, wrong: np.ndarray) -> tuple[float, float, float]:
    """(average precision, precision, recall) of a list of suspects, int64 [n], given which labels are wrong, bool
    [N]."""
    from sklearn.metrics import average_precision_score

    scores = np.zeros(len(wrong))
    scores[suspects] = np.arange(len(suspects), 0, -1)
    found = wrong[suspects].sum()
    return float(average_precision_score(wrong, scores)), found / max(1, len(suspects)), found / wrong.sum()


def measured(fraction: float, seed: int, epochs: int) -> dict[str, tuple[float, float, float]]:
    """Method -> its scores."""
    data = WrongDigits(wrong=LabelNoise(fraction=fraction, seed=seed))
    experiment = EXPERIMENT.but({"data": data, "seed": seed, "epochs": epochs})
    launch = Launch(mlflow=False, threads=1)
    run, folds = train(experiment, launch, "labels"), train_folds(experiment, Folds(5), launch, "labels")
    splits, truth = data.load(None), Digits().load(None)
    pool = splits.train.together(splits.val)
    right = truth.train.together(truth.val).targets
    answers = ask(network_of(run, "cpu"), pool, "all", splits.classes)
    by_id = dict(zip(answers.ids.tolist(), (pool.targets != right).tolist(), strict=True))
    assert len(by_id) == len(pool)  # no two images are the same
    alone, apart = by_content(answers), read(folds.parent, OUT_OF_FOLD)
    assert alone.targets.tolist() == apart.targets.tolist()
    wrong = np.array([by_id[name] for name in alone.ids])
    given, classes = alone.targets, len(splits.classes)
    by_run, by_folds = (outlined(each.probabilities, given) for each in (alone, apart))
    return {
        "single run": scored(disagreeing(by_run, given, classes), wrong),
        "out of fold, as a single run": scored(disagreeing(by_folds, given, classes), wrong),
        "out of fold, cleanlab": scored(confident_learning(apart.probabilities, given), wrong),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    print(f"digits, {EXPERIMENT.model}, {given.epochs} epochs, {given.seeds} seeds\n")
    print("| wrong labels | method | average precision | of each seed | precision | recall |")
    print("| --- | --- | --- | --- | --- | --- |")
    for fraction in FRACTIONS:
        with tempfile.TemporaryDirectory() as home:
            os.environ["LABBOOK_HOME"] = home
            with redirect_stdout(io.StringIO()):
                each = [measured(fraction, seed, given.epochs) for seed in range(given.seeds)]
        for method in each[0]:
            average, precision, recall = (np.array(part) for part in zip(*(one[method] for one in each), strict=True))
            mean, _, half = mean_and_interval(average.tolist())
            seeds = ", ".join(f"{value:.3f}" for value in average)
            row = f"{mean:.3f} +- {half:.3f} | {seeds} | {precision.mean():.2f} | {recall.mean():.2f}"
            print(f"| {fraction:.0%} | {method} | {row} |", flush=True)


if __name__ == "__main__":
    main()

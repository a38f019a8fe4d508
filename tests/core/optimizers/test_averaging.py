"""The average of a short training is of use, and a decay that does not fit is reported."""

import pytest

from core import Launch, train
from core.optimizers.averaging import Ema
from experiments.tiny import EXPERIMENT


def test_the_default_average_of_a_short_training_is_as_good_as_its_weights(home, capsys):
    short = EXPERIMENT.but({"epochs": 3})
    plain = train(short, Launch(mlflow=False))
    averaged = train(short.but({"ema": Ema()}), Launch(mlflow=False))
    assert averaged.metrics["test/accuracy"] > plain.metrics["test/accuracy"] - 0.05
    assert "steps are too few for decay 0.999" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ema", "steps", "text"),
    [
        (Ema(), 600, "averages about the last 68"),
        (Ema(), 100_000, None),
        (Ema(decay=0.9), 600, None),
        (Ema(warmup=False), 600, "averages over about 1,000 steps, but the training has 600"),
        (Ema(warmup=False), 100_000, None),
    ],
)
def test_a_decay_that_does_not_fit_the_training_is_reported(ema, steps, text):
    note = ema.note(steps)
    assert text in note if text else note is None

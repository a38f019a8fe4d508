"""How long a run is said to take, by a clock of the test's own."""

import re

import pytest

from core.runs.progress import Forecast, summary_of_seeds
from core.training.loop import Event


def forecast(step_seconds, steps=100, epochs=10, validation=0.0, overhead=0.0, first=0):
    """(what is announced, with the step after which it is; the seconds that it all took).

    step_seconds: step, from 0 -> its duration.
    """
    now, lines = 0.0, []
    forecast = Forecast(steps, epochs, first, overhead, clock=lambda: now)
    for step in range(first, steps * epochs):
        now += step_seconds(step)
        events = [Event(step + 1, step // steps, {})]
        if (step + 1) % steps == 0:
            events.append(Event(step + 1, step // steps, {}, validation=object()))
        for event in events:
            now += validation if event.validation else 0.0
            if line := forecast.after(event):
                lines.append((step + 1, line))
    return lines, now


def seconds(line):
    """The announced duration."""
    units = {"h": 3600, "min": 60, "s": 1}
    (text,) = re.findall(r"about (.*) on this device", line)
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+) (h|min|s)\b", text))


PACES = {
    "steady": lambda step: 0.2,
    "slow_steps": lambda step: 40.0,
    "first_step_compiles": lambda step: 90.0 if step == 0 else 0.2,
    "first_steps_tune": lambda step: 2.0 if step < 6 else 0.1,
    "speeds_up": lambda step: 0.1 + 1.9 * 0.9**step,
    "other_processes_start": lambda step: 0.73 if step < 16 else 0.15,
    "bursts_of_workers": lambda step: 0.8 if step % 8 == 0 else 0.01,
    "slows_down": lambda step: 0.05 if step < 80 else 0.3,
}


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
@pytest.mark.parametrize("first", [0, 430])
def test_the_announced_time_is_the_time_it_takes(pace, first):
    lines, taken = forecast(lambda step: pace(step - first), first=first)
    ((step, line),) = lines
    assert seconds(line) == pytest.approx(taken, rel=0.25)
    assert step - first <= 300
    assert f"{1000 - first:,} steps" in line


@pytest.mark.parametrize("steps", [20, 400], ids=["validation_measured", "validation_assumed"])
def test_validation_counts_but_is_no_part_of_a_step(steps):
    lines, taken = forecast(lambda step: 0.5, steps, 10, validation=0.2 * 0.5 * steps, overhead=0.2)
    ((_, line),) = lines
    assert "at 0.5 s per step" in line
    assert seconds(line) == pytest.approx(taken, rel=0.02)


def test_a_validation_that_was_measured_takes_the_place_of_the_assumed_one():
    lines, taken = forecast(lambda step: 0.5, 15, 30, validation=12.0, overhead=0.01)
    assert seconds(lines[0][1]) == pytest.approx(taken, rel=0.02)


@pytest.mark.parametrize(
    "pace",
    [
        lambda step: 0.05,
        lambda step: 0.73 if step < 20 else 0.015,
        lambda step: 12.0 if step == 0 else 0.04,
        lambda step: 0.02 + 1.5 * 0.8**step,
    ],
    ids=["steady", "slow_start", "compiles", "speeds_up"],
)
def test_a_run_of_less_than_a_minute_is_not_announced(pace):
    lines, taken = forecast(pace)
    assert taken < 60
    assert lines == []


def test_the_line_of_seeds_has_means_of_several_only():
    line = {"train/loss": 1.0, "train/accuracy": 0.5, "val/loss": 1.0, "val/accuracy": 0.5, "images_per_second": 8.0}
    assert summary_of_seeds(1, 3, [line]).startswith("epoch 2/3  1 seed: train loss 1.0000 accuracy 50.00%")
    assert summary_of_seeds(1, 3, [line] * 2).startswith("epoch 2/3  2 seeds, means: train loss 1.0000")

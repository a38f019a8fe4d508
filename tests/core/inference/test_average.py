"""The mean of several answers, and which of them the greedy selection takes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from core.common.errors import UserError
from core.inference.average import chosen, gain, mean_answers, score_of
from core.metrics.answers import Answers, bounded, by_content
from core.metrics.by_name import compute


def made(seed, runs, n=12, classes=3, labels=False, sharpness=2.0):
    """Answers of several runs for the same images, which know something of the targets."""
    random = np.random.default_rng(seed)
    names, ids = tuple(f"c{place}" for place in range(classes)), np.array([f"{place:016x}" for place in range(n)])
    targets = random.integers(0, 2, (n, classes)).astype(np.float32) if labels else random.integers(0, classes, n)
    hint = targets if labels else np.eye(classes)[targets]
    return [
        bounded("val", names, ids, targets, hint + sharpness * random.normal(size=(n, classes))) for _ in range(runs)
    ]


def probabilities(answers: Answers) -> np.ndarray:
    logits = answers.logits.astype(np.float64)
    return expit(logits) if answers.multi_label else softmax(logits, axis=1)


@pytest.mark.parametrize("labels", [False, True])
def test_the_mean_is_that_of_the_probabilities(labels):
    answers = made(0, 3, labels=labels)
    expected = np.average([probabilities(each) for each in answers], axis=0, weights=[3, 1, 2])
    np.testing.assert_allclose(probabilities(mean_answers(answers, [3, 1, 2])), expected, rtol=1e-5)
    equal = np.mean([probabilities(each) for each in answers], axis=0)
    np.testing.assert_allclose(probabilities(mean_answers(answers)), equal, rtol=1e-5)


def test_answers_in_another_order_have_a_mean_once_they_are_sorted_by_content():
    (one,) = made(0, 1)
    other = one.in_order(np.arange(len(one))[::-1])
    with pytest.raises(UserError, match="have answered different val images"):
        mean_answers([one, other])
    together = mean_answers([by_content(one), by_content(other)])
    np.testing.assert_allclose(probabilities(together), probabilities(by_content(one)), rtol=1e-5)


def test_with_many_classes_the_probability_of_the_target_is_exact():
    random, n, classes = np.random.default_rng(0), 50, 300
    names, ids = tuple(map(str, range(classes))), np.array(list(map(str, range(n))))
    targets = random.integers(0, classes, n)
    logits = [4 * random.normal(size=(n, classes)) + 3 * np.eye(classes)[targets] for _ in range(3)]
    found = mean_answers([bounded("val", names, ids, targets, each) for each in logits], [1, 2, 1])
    mean = np.average([softmax(each, axis=1) for each in logits], axis=0, weights=[1, 2, 1])
    expected = -np.log(mean[np.arange(n), targets]).mean()
    assert compute(found, "nll") == pytest.approx(expected, rel=1e-5)
    assert compute(found, "accuracy") == (mean.argmax(axis=1) == targets).mean()


def by_hand(answers, size):
    """The selection of Caruana et al. (2004), written down once more: plain lists, and every ensemble from scratch."""
    each, targets = [probabilities(one) for one in answers], answers[0].targets

    def quality(drawn):
        mean = np.mean([each[place] for place in drawn], axis=0)
        own = mean[np.arange(len(targets)), targets]
        return round((mean.argmax(axis=1) == targets).mean(), 9), round(np.log(own).mean(), 5)

    drawn, path = [], []
    for _ in range(size):
        options = [[*drawn, place] for place in range(len(each))]
        drawn = max(options, key=quality)
        path.append(drawn)
    best = max(path, key=quality)
    return [best.count(place) for place in range(len(each))]


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5))
def test_the_greedy_selection_is_the_one_of_the_paper(seed, runs, size):
    answers = made(seed, runs)
    assert chosen(answers, "accuracy", size) == by_hand(answers, size)


@given(st.integers(0, 10_000), st.sampled_from(["accuracy", "nll", "f1"]))
def test_what_is_chosen_is_at_least_as_good_as_the_best_run(seed, metric):
    answers = made(seed, 3)
    counts = chosen(answers, metric, 4)
    found = mean_answers([a for a, n in zip(answers, counts, strict=True) if n], [n for n in counts if n])
    score = score_of(metric)
    assert score(found)[0] >= max(score(each)[0] for each in answers) - 1e-6


def test_the_gain_is_paired_over_images():
    worse, better = made(1, 2, n=200)
    found = gain(worse, better, "accuracy")
    difference = compute(better, "accuracy") - compute(worse, "accuracy")
    assert found.difference == pytest.approx(difference)
    assert found.low <= difference <= found.high
    assert gain(worse, worse, "nll")[1:] == (0, 0, 0)  # of unpaired resamples it would have a width
    right = replace(worse, logits=(5 * np.eye(3)[worse.targets]).astype(np.float32))
    assert gain(worse, right, "accuracy").low > 0


def test_answers_for_other_images_or_classes_have_no_mean():
    one, other = made(0, 2)
    for wrong, message in (
        (replace(other, ids=other.ids[::-1]), "have answered different val images"),
        (replace(other, targets=other.targets[::-1]), "have answered different val images"),
        (replace(other, classes=("c0", "c2", "c1")), "different classes"),
    ):
        with pytest.raises(UserError, match=message):
            mean_answers([one, wrong])
    with pytest.raises(UserError, match="not known whether larger or smaller values"):
        score_of("surprise")

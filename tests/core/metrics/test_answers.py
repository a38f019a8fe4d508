"""Answers of several networks together: the mean of their probabilities, in an order that all have in common."""

import numpy as np
import pytest

from core.metrics.answers import bounded, by_content, mean, probabilities


def softmax(logits):
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("classes", "several"), [(4, False), (4, True), (150, False)])
def test_the_mean_answer_has_the_mean_probabilities(classes, several):
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 30, classes))
    if classes > 100:
        logits[:, :, :15] += 20  # of 20 that are kept, those that matter
    targets = (random.random((30, classes)) < 0.3).astype(np.float32) if several else random.integers(0, classes, 30)
    names, ids = tuple(map(str, range(classes))), np.array([f"{i:02}" for i in range(30)])
    both = [bounded("test", names, ids, targets, each) for each in logits]
    expected = np.mean([1 / (1 + np.exp(-each)) if several else softmax(each) for each in logits], axis=0)
    found = mean(both)
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-5)
    assert found.targets.tolist() == targets.tolist()
    assert (found.places is not None) == (classes > 100)


def test_answers_for_other_images_have_no_mean():
    logits, targets = np.zeros((2, 2)), np.array([0, 1])
    one, other = (bounded("val", ("a", "b"), np.array(ids), targets, logits) for ids in (["x", "y"], ["y", "x"]))
    with pytest.raises(ValueError, match="not for the same images in the same order"):
        mean([one, other])
    assert mean([by_content(one), by_content(other)]).ids.tolist() == ["x", "y"]

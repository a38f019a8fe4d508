"""Comparisons over seeds and images: right answers on record, paired by the content of the image."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from core.cli.compare import main as command
from core.common import paths
from core.common.errors import UserError
from core.compare import looks
from core.compare.comparison import compare
from core.compare.images import over_images
from core.compare.runs import rows
from core.compare.statistics import LEVEL, difference, power, seeds_needed
from core.inference.answers import log_answers, name_of
from core.inference.scores import scores
from core.metrics.answers import Answers
from core.record.journal import Journal
from experiments.tiny import EXPERIMENT, VARIANTS
from tests.support.records import seeds

PLAIN = EXPERIMENT.but(VARIANTS["plain"])
IMAGES = 120
TIMES = 600


def crossed(random, n, count, seed=0.3, image=0.6):
    """Differences [n, count] of two equal settings: of the seed, of the image, and of both."""
    return seed * random.normal(size=(n, 1)) + image * random.normal(size=(1, count)) + random.normal(size=(n, count))


def over(differences, **more):
    a = dict(enumerate(differences))
    return over_images(a, {key: np.zeros_like(each) for key, each in a.items()}, **more)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("seed", "image"), [(0.3, 0.6), (0.05, 1.0), (0.6, 0.1), (0.0, 0.0)])
def test_of_equal_settings_at_most_one_in_twenty_differs_for_other_seeds_and_images(n, seed, image):
    random = np.random.default_rng(n)
    found = [over(crossed(random, n, 60, seed, image)) for _ in range(TIMES)]
    assert np.mean([one.p < LEVEL for one in found]) <= 0.07
    assert np.mean([not one.interval()[0] <= 0 <= one.interval()[1] for one in found]) <= 0.07


def test_over_seeds_alone_more_differ_where_images_matter():
    random = np.random.default_rng(0)
    drawn = [crossed(random, 5, 60, 0.05, 1.0) for _ in range(TIMES)]
    alone = [difference(dict(enumerate(d.mean(axis=1))), dict.fromkeys(range(5), 0.0)).p for d in drawn]
    assert np.mean([p < LEVEL for p in alone]) > 0.3
    assert np.mean([over(d).p < LEVEL for d in drawn]) <= 0.07


def test_the_error_is_the_sum_of_what_seeds_and_images_contribute():
    """By hand: two seeds, two images; mean squares of seeds 4, of images 9, of the rest 1, over n N = 4."""
    found = over(np.array([[0.0, 2.0], [1.0, 5.0]]))
    assert found.mean == 2.0
    assert found.error**2 == pytest.approx((4 + 9 - 1) / 4)
    assert found.share == pytest.approx(8 / 12)
    assert (found.freedom, found.n, found.images) == (1.0, 2, 2)


def test_the_same_for_all_images_it_is_the_test_over_seeds():
    values = {0: 0.1, 1: 0.3, 2: 0.15}
    found = over_images({k: np.full(5, v) for k, v in values.items()}, {k: np.zeros(5) for k in values})
    alone = difference(values, dict.fromkeys(values, 0.0))
    assert found.share == 0
    assert (found.mean, found.error, found.p) == pytest.approx((alone.mean, alone.error, alone.p))


def test_over_images_alone_it_is_the_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 3, 50))
    found = over_images(dict(enumerate(a)), dict(enumerate(b)), seeds=False)
    expected = ttest_rel(a.mean(axis=0), b.mean(axis=0))
    assert (found.p, *found.interval()) == pytest.approx((expected.pvalue, *expected.confidence_interval()))
    one = over_images({0: a[0]}, {0: b[0]})  # a single seed of each
    assert one.p == pytest.approx(ttest_rel(a[0], b[0]).pvalue)


@given(st.integers(0, 40), st.integers(0, 40), st.floats(1e-4, 0.5))
def test_two_single_runs_are_compared_by_mcnemars_test(gained, lost, level):
    a, b = np.zeros((2, 100))
    a[:gained], b[gained : gained + lost] = 1, 1
    found = over_images({0: a}, {7: b})
    assert found.flips == (gained, lost)
    assert found.p == pytest.approx(binomtest(gained, gained + lost).pvalue if gained + lost else 1.0)
    low, high = found.interval(level)
    assert low <= found.mean <= high
    assert (low > 0 or high < 0) == (found.p < level) or abs(found.p - level) < 1e-9


@given(st.integers(2, 4), st.integers(2, 6), st.booleans(), st.integers(0, 10**6))
def test_the_level_of_the_interval_that_ends_at_0_is_p_and_the_order_turns_the_sign(n, count, paired, seed):
    random = np.random.default_rng(seed)
    a = dict(enumerate(random.normal(size=(n, count))))
    b = dict(enumerate(random.normal(size=(n, count)), start=0 if paired else n))
    found, back = over_images(a, b), over_images(b, a)
    assert found.paired == paired
    assert (back.mean, back.error, back.p) == pytest.approx((-found.mean, found.error, found.p))
    assert min(map(abs, found.interval(found.p))) == pytest.approx(0, abs=1e-6 * (1 + abs(found.mean)))
    assert looks.turned(looks.turned(found, "b", "a"), "b", "a") == found


def test_the_stated_power_is_what_simulation_finds():
    random, n, count, effect = np.random.default_rng(0), 6, 50, 0.45
    found = [over(effect + crossed(random, n, count, 0.3, 0.6)) for _ in range(TIMES)]
    stated = power(effect, math.sqrt(0.09 + 1 / count), n, True, images=0.36 / count)
    assert abs(np.mean([one.p < LEVEL for one in found]) - stated) < 0.05


def test_more_seeds_cannot_show_what_the_images_hide():
    random = np.random.default_rng(0)
    hidden = over(0.1 + crossed(random, 4, 30, 0.0, 2.0))
    assert hidden.share > 0.8
    assert seeds_needed(hidden) is None
    assert seeds_needed(over(0.3 + crossed(random, 4, 3000, 0.3, 0.1))) > 4


def answer(run, right, split="test", ids=None, groups=None, classes=("a", "b")):
    """Answers on record: of class a, and right where it is said."""
    right = np.asarray(right, dtype=bool)
    logits = np.where(right[:, None], (0.0, -2.0), (-1.0, 0.0)).astype(np.float32)
    ids = np.array([f"{i:016x}" for i in range(len(right))] if ids is None else ids)
    targets = np.zeros(len(right), dtype=np.int64)
    made = Answers(split, classes, ids, targets, logits, groups=None if groups is None else np.array(groups))
    log_answers(Journal(paths.runs() / run), name_of(split), made)


def share(count, wrong):
    """Right answers, of which so many are wrong."""
    return np.arange(count) >= wrong


def settings_with_answers(lab, base=(20, 21, 22), plain=(5, 7, 6)):
    for experiment, variant, wrong in ((EXPERIMENT, None, base), (PLAIN, "plain", plain)):
        runs = seeds(lab, experiment, [1 - each / IMAGES for each in wrong], variant=variant)
        for run, each in zip(runs, wrong, strict=True):
            answer(run, share(IMAGES, each))
    return rows(["tiny"])[0]


def test_with_answers_intervals_are_over_seeds_and_images_and_the_foot_says_so(lab, capsys):
    settings_with_answers(lab)
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    shown = capsys.readouterr().out
    assert "plain beats base by 12.50 points (95 % interval " in shown
    assert "3 paired seeds x 120 images" in shown
    foot = "intervals of differences are over seeds and the 120 test images; those of means are over seeds alone"
    assert foot in shown.replace("\n", " ")
    assert "nll" in shown.split("time")[0]
    command(["tiny", "--metric", "test/accuracy", "--unit", "seeds"])
    shown = capsys.readouterr().out
    assert "(95 % interval 9.51 to 15.49, 3 paired seeds, p" in shown
    assert "intervals are over seeds alone: other images may differ\n" in shown
    command(["tiny", "--metric", "test/accuracy", "--unit", "images"])
    shown = capsys.readouterr().out
    assert "over 120 images only, p" in shown
    assert "; other seeds may differ" in shown


def test_json_has_the_unit_and_the_proper_scores(lab, capsys):
    settings_with_answers(lab)
    assert command(["tiny", "--metric", "test/accuracy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["unit"], found["images"], found["images_left_out"]) == ("both", IMAGES, 0)
    plain, base = found["settings"]
    right, wrong = (math.log(1 + math.exp(-gap)) for gap in (2.0, -1.0))
    nll = 20 / 120 * wrong + 100 / 120 * right, 21 / 120 * wrong + 99 / 120 * right
    assert base["beside"]["nll"]["mean"] == pytest.approx(nll[1], rel=1e-6)
    assert plain["beside"]["nll"]["difference"] == pytest.approx(-15 / 120 * (wrong - right))
    assert plain["beside"]["nll"]["high"] < 0 < plain["beside"]["brier"]["mean"]
    assert plain["against_baseline"]["images"] == IMAGES


def test_a_run_without_answers_leaves_the_interval_over_seeds_and_says_why(lab, capsys):
    settings_with_answers(lab)
    lab(PLAIN.but({"seed": 3}), 0.95, variant="plain")
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    shown = capsys.readouterr().out
    assert "(1 of 7 runs have no answers for test; " in shown
    assert "labbook answers" in shown
    with pytest.raises(UserError, match="--unit both: 1 of 7 runs have no answers for test"):
        command(["tiny", "--metric", "test/accuracy", "--unit", "both"])


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("test/f1", "is not a mean over the images of val or test, as accuracy, nll, brier are"),
        ("test/loss", "is not the negative log-likelihood of each image; use --metric test/nll"),
        ("val/accuracy", "6 of 6 runs have no answers for val"),
    ],
)
def test_other_metrics_stay_on_seeds(lab, metric, why):
    read = settings_with_answers(lab)
    measured = [replace(row, metrics={**row.metrics, "test/f1": 0.5 + 0.01 * int(row.seed)}) for row in read]
    found = compare(measured, metric, read=scores)
    assert found.unit == "seeds"
    assert why in found.why
    with pytest.raises(UserError, match=why.replace("(", r"\(")):
        compare(measured, metric, read=scores, unit="both")


def test_two_single_runs_are_told_as_such(lab, capsys):
    settings_with_answers(lab, base=(30,), plain=(4,))
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    shown = capsys.readouterr().out
    assert "plain beats base by 21.67 points (95 % interval " in shown
    assert "over 120 images only, by the exact McNemar test" in shown
    assert "; other seeds may differ" in shown
    assert "intervals of differences are over the 120 test images alone" in shown
    known = looks.read(paths.looks())
    ((one,),) = known.values()
    assert one.flips == (0, 26)
    command(["tiny", "--metric", "test/accuracy"])
    assert looks.read(paths.looks()) == known  # the same look is on record once


def test_answers_of_different_test_sets_are_compared_on_the_common_images(lab, capsys):
    for experiment, variant, first, data in ((EXPERIMENT, None, 0, "d1"), (PLAIN, "plain", 40, "d2")):
        for run in seeds(lab, experiment, (0.9, 0.91, 0.92), variant=variant, data=data):
            ids = [f"{i:016x}" for i in range(first, first + IMAGES)]
            answer(run, share(IMAGES, 50), ids=ids)
    words = ["tiny", "--metric", "test/accuracy", "--anyway"]
    assert command(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "over the 80 test images that all runs have answered (80 others are left out)" in shown
    assert "87.50 +- 0.00 %" in shown  # base is wrong on the first 50: on 10 of the common ones
    assert "37.50 +- 0.00 %" in shown


def test_without_a_common_image_both_is_an_error_that_says_so(lab, capsys):
    for experiment, variant, first in ((EXPERIMENT, None, 0), (PLAIN, "plain", 500)):
        for run in seeds(lab, experiment, (0.9, 0.91), variant=variant):
            answer(run, share(10, 2), ids=[f"{i:016x}" for i in range(first, first + 10)])
    with pytest.raises(UserError, match="--unit both: the runs have no test image in common"):
        command(["tiny", "--metric", "test/accuracy", "--unit", "both"])
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    assert "other images may differ (the runs have no test image in common)" in capsys.readouterr().out


def test_images_of_a_group_count_as_one(lab):
    groups = [f"patient{i // 10}" for i in range(IMAGES)]
    for experiment, variant, wrong in ((EXPERIMENT, None, 30), (PLAIN, "plain", 10)):
        for number, run in enumerate(seeds(lab, experiment, (0.9, 0.91, 0.92), variant=variant)):
            answer(run, share(IMAGES, wrong + number), groups=groups)
    found = compare(rows(["tiny"])[0], "test/accuracy", read=scores)
    (one,) = found.contrasts
    assert one.difference.images == IMAGES // 10
    assert one.difference.mean == pytest.approx(20 / IMAGES)
    summed = scores(rows(["tiny"])[0], "test/accuracy").values
    assert {len(each) for each in summed.values()} == {IMAGES // 10}
    assert one.difference.error > 0


def test_a_damaged_file_of_answers_is_named(lab, capsys):
    settings_with_answers(lab)
    run = rows(["tiny"])[0][0].id
    (paths.runs() / run / "artifacts" / name_of("test")).write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"answers/test\.parquet"):
        command(["tiny", "--metric", "test/accuracy", "--unit", "both"])
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    assert "test.parquet" in capsys.readouterr().out


def test_the_foot_says_images_where_seeds_cannot_be_paired(lab, capsys):
    settings_with_answers(lab, base=(30, 31), plain=(4,))
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    shown = capsys.readouterr().out
    assert "over 120 images only, by the exact McNemar test" in shown
    assert "intervals of differences are over the 120 test images alone; those of means are over seeds alone" in shown

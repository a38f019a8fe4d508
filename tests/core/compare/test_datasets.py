"""Settings ranked over several data sets."""

import json

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from core.cli.compare import main as command
from core.common.errors import UserError
from core.compare.datasets import ranked
from core.compare.runs import rows
from experiments.tiny import EXPERIMENT, VARIANTS
from tests.support.records import seeds

SETTINGS = {"base": {}, "plain": VARIANTS["plain"], "mlp": VARIANTS["mlp"]}
WORDS = ["tiny", "--datasets", "--metric", "test/accuracy"]


def trained(lab, table, lacking=()):
    """Two seeds of each setting on each data set; table: setting -> mean on each."""
    for name, means in table.items():
        for number, mean in enumerate(means):
            if (name, number) not in lacking:
                variant = None if name == "base" else name
                seeds(
                    lab,
                    EXPERIMENT.but(SETTINGS[name]),
                    (mean - 0.01, mean + 0.01),
                    variant=variant,
                    data=f"data{number}",
                )


def test_ranks_and_the_critical_difference_are_those_of_the_formulas(lab, capsys):
    table = {
        "base": [0.80, 0.81, 0.82, 0.70, 0.60, 0.75],
        "plain": [0.82, 0.83, 0.85, 0.72, 0.61, 0.76],
        "mlp": [0.84, 0.86, 0.86, 0.75, 0.65, 0.74],
    }
    trained(lab, table)
    found = ranked(rows(["tiny"])[0], "test/accuracy")
    assert found.settings == ("mlp", "plain", "base")
    assert found.ranks.tolist() == pytest.approx([8 / 6, 11 / 6, 17 / 6])
    assert found.means[0].tolist() == pytest.approx(table["mlp"])
    assert found.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 6)), rel=1e-3)  # Demsar, table 5a
    chi = friedmanchisquare(*table.values()).statistic
    assert chi == pytest.approx(7.0)
    # F = 5 * 7 / (6 * 2 - 7) = 7; with 2 and 10 degrees of freedom, its tail is a power
    assert found.p == pytest.approx((1 + 2 * 7 / 10) ** -5)
    assert found.shown == [("mlp", "base")]
    assert command(WORDS) == 0
    shown = capsys.readouterr().out
    assert "mlp ranks before base" in shown
    assert "critical difference of two mean ranks: 1.35" in shown
    assert command([*WORDS, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"][0]["mean_rank"] == pytest.approx(8 / 6)
    assert told["shown"] == [["mlp", "base"]]
    assert len(told["datasets"]) == 6


def test_of_a_loss_the_smallest_ranks_first_and_few_data_sets_show_nothing(lab, capsys):
    trained(lab, {"base": [0.8, 0.8], "plain": [0.7, 0.7], "mlp": [0.6, 0.6]})
    assert command(["tiny", "--datasets", "--metric", "test/loss"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("base") < shown.index("plain") < shown.index("mlp")
    assert "with fewer than 5 data sets, ranks show hardly anything" in shown


def test_equal_settings_have_equal_ranks(lab):
    trained(lab, dict.fromkeys(SETTINGS, (0.8, 0.7)))
    found = ranked(rows(["tiny"])[0], "test/accuracy")
    assert found.ranks.tolist() == [2, 2, 2]
    assert (found.p, found.shown) == (1.0, [])


def test_settings_that_do_not_match_are_named(lab):
    trained(lab, dict.fromkeys(SETTINGS, (0.8, 0.7)), lacking=[("mlp", 1)])
    with pytest.raises(UserError, match="data1 has no setting mlp with test/accuracy, and data0 has"):
        ranked(rows(["tiny"])[0], "test/accuracy")


def test_what_cannot_be_ranked_is_refused(lab):
    trained(lab, {"base": [0.8, 0.7], "plain": [0.8, 0.7]})
    with pytest.raises(UserError, match="ranks need 3 settings or more"):
        command(WORDS)
    with pytest.raises(UserError, match="not together with --by"):
        command([*WORDS, "--by", "augment"])
    read = [row for row in rows(["tiny"])[0] if row.data == "data0"]
    with pytest.raises(UserError, match="used 1 data set; name runs of 2 or more"):
        ranked(read, "test/accuracy")

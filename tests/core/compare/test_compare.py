"""labbook compare over runs on record: how runs are grouped, what is reported, what is refused."""

import csv
import json
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from core.cli.compare import main as command
from core.cli.main import labbook as main
from core.common import paths
from core.common.errors import UserError
from core.common.plots import band
from core.compare import forest_plot, looks
from core.compare.comparison import compare
from core.compare.looks import spent
from core.compare.page import page
from core.compare.runs import rows
from core.compare.statistics import LEVEL, difference, first_family
from core.compare.table import as_csv, markdown, sentences, table
from core.record.journal import Journal
from core.runs.trained import Run
from experiments.tiny import EXPERIMENT, VARIANTS
from tests.support.records import seeds

PLAIN = EXPERIMENT.but(VARIANTS["plain"])


def test_seeds_are_grouped_and_the_difference_of_the_better_setting_is_reported(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965, 0.961))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954, 0.951), variant="plain")
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert [(group.label, len(group.values)) for group in found.groups] == [("base", 4), ("plain", 4)]
    assert {"augment", "augment.random_crop.padding", "loss.label_smoothing"} < set(found.differing)
    assert "seed" not in found.differing
    assert found.distinctive == {
        "base": "augment=random_crop, loss.label_smoothing=0.1",
        "plain": "augment=(), loss.label_smoothing=0.0",
    }
    (line,) = sentences(found)
    assert line == "base beats plain by 1.00 points (95 % interval 0.84 to 1.16, 4 paired seeds, p = 0.00025)"


def test_a_difference_of_zero_has_no_sign_and_promises_nothing(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.961, 0.962))
    seeds(lab, PLAIN, (0.961, 0.961 - 1e-9, 0.961), variant="plain")
    found = compare(*rows(["tiny"])[:1], "test/accuracy", baseline="base")
    (line,) = sentences(found)
    assert line == "plain against base: no difference shown (3 paired seeds)"
    assert all("-0.00 [" not in cell for row in table(found) for cell in row)


def test_of_a_loss_the_smaller_is_better(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    found = compare(*rows(["tiny"])[:1], "test/loss")
    assert found.groups[0].label == "base"
    assert next(sentences(found)).startswith("base beats plain by 0.01")


def measured(home, run, **metrics):
    path = home / "mlruns" / "runs" / run / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"metrics": summary["metrics"] | metrics}))


def three_of_each(lab, home, name, base, plain):
    for experiment, variant, values in ((EXPERIMENT, None, base), (PLAIN, "plain", plain)):
        for run, value in zip(seeds(lab, experiment, (0.9, 0.9, 0.9), variant=variant), values, strict=True):
            measured(home, run, **{name: value})


@pytest.mark.parametrize("name", ["seconds", "val_error", "peak_memory_mb"])
def test_of_a_cost_or_an_error_the_smaller_is_better(lab, home, name):
    three_of_each(lab, home, name, (0.3, 0.31, 0.29), (0.1, 0.11, 0.09))
    found = compare(*rows(["tiny"])[:1], name)
    assert found.groups[0].label == "plain"
    assert next(sentences(found)).startswith("plain beats base by 0.2")
    assert table(found)[0][3] == "0.0900"


def test_without_a_known_direction_no_setting_is_called_better_unless_an_option_says_which_is(
    lab, home, capsys, tmp_path
):
    three_of_each(lab, home, "val/fun", (0.3, 0.31, 0.29), (0.1, 0.11, 0.09))
    words = ["tiny", "--metric", "val/fun"]
    command([*words, "--picture", str(tmp_path / "a.svg")])
    shown = capsys.readouterr().out
    assert "base has a larger val/fun than plain, by 0.2000 (95 % interval" in shown
    assert "is not known" in shown
    assert "beats" not in shown
    assert "best" not in shown
    drawn = (tmp_path / "a.svg").read_text()
    assert "is better" not in drawn.replace("is better is", "")
    assert forest_plot.WORSE not in drawn
    command([*words, "--lower-is-better"])
    assert "plain beats base by 0.2000" in capsys.readouterr().out
    command([*words, "--higher-is-better"])
    assert "base beats plain by 0.2000" in capsys.readouterr().out
    with pytest.raises(UserError, match="choose one"):
        command([*words, "--lower-is-better", "--higher-is-better"])


def test_what_is_not_shown_says_how_many_seeds_would_show_it(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.94, 0.97))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    (line,) = sentences(compare(*rows(["tiny"])[:1], "test/accuracy"))
    assert "plain against base: no difference shown (3 paired seeds); " in line
    assert "more seeds each would show a difference of 0.43 points in 4 of 5 cases" in line


def test_a_single_seed_has_no_interval_and_a_failed_one_is_in_sight(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.94, 0.97))
    lab(PLAIN, 0.95, variant="plain")
    lab(PLAIN.but({"seed": 1}), 0.0, variant="plain", status="FAILED", error="NonFinite: step 7")
    lab(PLAIN.but({"seed": 2}), 0.0, variant="plain", status="RUNNING")
    lab(EXPERIMENT.but({"seed": 1}), 0.0, status="FAILED")
    lab(EXPERIMENT.but({"epochs": 99}), 0.0, status="FAILED", error="OutOfMemory: of memory")
    found, left = rows(["tiny"])
    comparison = compare(found, "test/accuracy")
    (line,) = sentences(comparison)
    assert "plain with a single seed: no interval" in line
    assert comparison.notes == (
        "base (epochs=30): 1 of 3 seeds failed at first and finished when run again (seed 1: FAILED)",
        "plain: 1 of 3 seeds failed (seed 1: NonFinite: step 7)",
        "plain: 1 of 3 seeds not finished (seed 2: running, or interrupted)",
        "base (epochs=99): 1 of 1 seeds failed (seed 0: OutOfMemory: of memory)",
    )
    assert [row[1] for row in table(comparison)] == ["3", "1 of 3"]
    assert left == []


def test_a_label_says_what_sets_a_setting_apart_once_and_no_more(lab):
    changes = ({}, {"epochs": 20}, {"optimizer": "AdamW"}, {"optimizer": "AdamW", "optimizer.lr": 0.5})
    for change in changes:
        lab(EXPERIMENT.but(change), 0.9)
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert sorted(group.label for group in found.groups) == [
        "base (epochs=20, optimizer=SGD)",
        "base (optimizer=AdamW(lr=0.001))",
        "base (optimizer=AdamW(lr=0.5))",
        "base (optimizer=SGD)",
    ]


def test_many_comparisons_are_corrected(lab):
    seeds(lab, EXPERIMENT, (0.960, 0.962, 0.961))
    for number, lr in enumerate((0.2, 0.3, 0.4, 0.5)):
        seeds(lab, EXPERIMENT.but({"optimizer.lr": lr}), (0.957 - 0.0001 * number, 0.9585, 0.956))
    found = compare(*rows(["tiny"])[:1], "test/accuracy", baseline="base (optimizer.lr=0.1)")
    assert len(found.contrasts) == 4
    raw = [one.difference.p / spent(3) for one in found.contrasts]
    assert [one.p for one in found.contrasts] == pytest.approx(first_family(raw)[0])
    assert max(one.p for one in found.contrasts) > max(one.difference.p for one in found.contrasts)


def test_by_a_field_pairs_runs_that_are_alike_in_all_else(lab):
    for smoothing in (0.0, 0.1):
        for epochs in (10, 20):
            changed = EXPERIMENT.but({"loss.label_smoothing": smoothing, "epochs": epochs})
            seeds(lab, changed, (0.9 + epochs / 1000 + smoothing / 10, 0.91 + epochs / 1000 + smoothing / 10))
    found = compare(*rows(["tiny"])[:1], "test/accuracy", by="loss.label_smoothing")
    assert [group.label for group in found.groups] == ["loss.label_smoothing=0.1", "loss.label_smoothing=0.0"]
    assert found.contrasts[0].difference.n == 4
    assert found.contrasts[0].difference.mean == pytest.approx(0.01)


def test_a_seed_that_was_run_twice_counts_once(lab):
    lab(EXPERIMENT, 0.9)
    seeds(lab, EXPERIMENT, (0.96, 0.94))
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert found.groups[0].summary[0] == pytest.approx(0.95)
    assert "base: seeds run again: 1; the latest counts" in found.notes


def test_other_data_are_refused_unless_anyway(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.94))
    seeds(lab, PLAIN, (0.96, 0.94), variant="plain", data="d2")
    found, _ = rows(["tiny"])
    with pytest.raises(UserError, match=r"2 different data sets \(d1 in 2 runs, d2 in 2 runs\).*--anyway"):
        compare(found, "test/accuracy")
    assert "warning: these runs used 2 different" in compare(found, "test/accuracy", anyway=True).notes[0]


def test_runs_on_different_data_are_named_and_never_folded_as_seeds(lab):
    for data, name, values in (("d1aaaaaaaaaa", "flowers", (0.96, 0.94)), ("d2aaaaaaaaaa", "birds", (0.5, 0.6))):
        for seed, value in enumerate(values):
            run = lab(EXPERIMENT.but({"seed": seed}), value)
            path = paths.runs() / run / "artifacts" / "record.json"
            record = json.loads(path.read_text()) | {"data": {"digest": data, "name": name}}
            path.write_text(json.dumps(record))
    found, _ = rows(["tiny"])
    with pytest.raises(UserError, match=r"\(birds d2aaaaaa in 2 runs, flowers d1aaaaaa in 2 runs\)"):
        compare(found, "test/accuracy")
    anyway = compare(found, "test/accuracy", anyway=True)
    assert [(group.label, len(group.values)) for group in anyway.groups] == [
        ("base (data.images=flowers d1aaaaaa)", 2),
        ("base (data.images=birds d2aaaaaa)", 2),
    ]
    assert not any("run again" in note for note in anyway.notes)


def test_a_single_seed_is_no_baseline_unless_it_is_asked_for(lab):
    lab(EXPERIMENT.but({"epochs": 99}), 0.99)
    seeds(lab, EXPERIMENT, (0.96, 0.95))
    seeds(lab, PLAIN, (0.5, 0.51), variant="plain")
    found, _ = rows(["tiny"])
    assert compare(found, "test/accuracy").baseline.label == "base (epochs=30)"
    assert compare(found, "test/accuracy", baseline="base (epochs=99)").baseline.label == "base (epochs=99)"
    assert any("beats plain" in line for line in sentences(compare(found, "test/accuracy")))


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("metric", ["test/loss", "val/fun", "test/accuracy"])
def test_a_value_that_is_not_finite_is_sorted_last_and_compared_with_nothing(lab, home, tmp_path, bad, metric):
    worst = -bad if metric != "test/loss" else bad
    three_of_each(lab, home, metric, (0.3, worst, 0.29), (0.1, 0.11, 0.09))
    found = compare(*rows(["tiny"])[:1], metric)
    assert [group.label for group in found.groups] == ["plain", "base"]
    (line,) = sentences(found)
    assert line == f"base against plain: not compared, because {metric} of base is not finite"
    assert table(found)[1][4:6] == ["not finite", ""]
    forest_plot.save(found, tmp_path / "a.png")
    assert "nan would" not in markdown(found)
    assert as_csv(found)


def test_the_interval_is_corrected_like_its_p(lab):
    seeds(lab, EXPERIMENT, (0.960, 0.962, 0.961))
    for number, low in enumerate((0.940, 0.955, 0.9575, 0.957, 0.9586)):
        seeds(lab, EXPERIMENT.but({"optimizer.lr": 0.2 + number}), (low, low + 0.0035, low + 0.001))
    found = compare(*rows(["tiny"])[:1], "test/accuracy", baseline="base (optimizer.lr=0.1)")
    raw = [difference(one.group.values, found.baseline.values) for one in found.contrasts]
    alone = [one.interval() for one in raw]
    assert any(low * high > 0 and not contrast.significant
               for (low, high), contrast in zip(alone, found.contrasts, strict=True))  # fmt: skip
    for (low, high), contrast in zip(alone, found.contrasts, strict=True):
        assert contrast.high - contrast.low >= high - low
        assert (contrast.low * contrast.high > 0) == contrast.significant
    assert any(contrast.significant for contrast in found.contrasts)


def test_the_baseline_does_not_depend_on_the_results(lab):
    seeds(lab, PLAIN, (0.99, 0.991), variant="plain")
    seeds(lab, EXPERIMENT.but({"optimizer.lr": 0.3}), (0.999,))
    seeds(lab, EXPERIMENT, (0.95, 0.953))
    seeds(lab, EXPERIMENT.but({"optimizer.lr": 0.2}), (0.98, 0.983))
    assert compare(*rows(["tiny"])[:1], "test/accuracy").baseline.label == "base (optimizer.lr=0.1)"


def test_settings_that_may_be_the_best(lab):
    for number, mean in enumerate((0.90, 0.95, 0.97, 0.9701)):
        noise = [0.0001 * ((3 * seed + number) % 5) for seed in range(6)]
        seeds(lab, EXPERIMENT.but({"optimizer.lr": 0.1 + number}), [mean + each for each in noise])
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert found.baseline.fields["optimizer.lr"] == "0.1"
    best = [group.fields["optimizer.lr"] for group in found.groups if group.label not in found.worse]
    assert sorted(best) == ["2.1", "3.1"]
    assert list(sentences(found))[-1].startswith("may be the best: ")


def test_a_look_is_on_record_and_the_next_one_takes_it_into_account(lab, home, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.94, 0.97))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    words = ["tiny", "--metric", "test/accuracy"]
    assert command(words) == command(words) == 0
    first, again = capsys.readouterr().out.split("setting")[1:]
    assert "look" not in first
    assert first.split("written")[0].rstrip() == again.rstrip() or "no difference shown" in again
    for seed, (base, plain) in enumerate([(0.97, 0.951), (0.971, 0.9512), (0.969, 0.9515)], start=3):
        lab(EXPERIMENT.but({"seed": seed}), base)
        lab(PLAIN.but({"seed": seed}), plain, variant="plain")
    assert command(words) == 0
    assert "6 paired seeds, look 2" in capsys.readouterr().out
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    known = looks.read(paths.looks())
    assert len(known[looks.pair_of("test/accuracy", found.baseline.first, found.groups[1].first)]) == 2
    later = compare(*rows(["tiny"])[:1], "test/accuracy", earlier=known)
    assert later.contrasts[0].p > found.contrasts[0].p


def test_a_look_that_cannot_be_recorded_is_told_and_the_result_shown(lab, home, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.94, 0.97))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    paths.looks().mkdir()
    with pytest.raises(UserError, match=r"looks\.jsonl: Is a directory"):
        command(["tiny"])


def test_json_says_what_the_table_says_and_nothing_else(lab, tmp_path, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965, 0.961))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954, 0.951), variant="plain")
    lab(PLAIN.but({"optimizer.lr": 0.3}), 0.5, variant="alone")
    path = tmp_path / "a.csv"
    assert command(["tiny", "--json", "--csv", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    base, plain, alone = found["settings"]
    assert (found["baseline"], base["setting"], plain["setting"]) == ("base", "base", "plain")
    assert plain["worse_than"] == "base"
    assert [one["may_be_best"] for one in found["settings"]] == [True, False, True]
    assert plain["against_baseline"]["shown"]
    assert plain["against_baseline"]["difference"] == pytest.approx(-0.01)
    assert (alone["half_interval"], alone["against_baseline"]) == (None, None)
    line = next(csv.DictReader(path.open()))
    assert float(line["mean"]) == base["mean"]


def test_json_is_all_of_standard_output_and_warnings_are_in_it(lab, home, capsys, monkeypatch):
    parent = lab(EXPERIMENT, 0.0, seeds=4)
    *_, lost = seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965, 0.961), parent=parent)
    (home / "mlruns" / "runs" / lost / "artifacts" / "record.json").write_text("nothing")
    other = seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    (home / "mlruns" / "runs" / other[2] / "artifacts" / "record.json").write_text("nothing")

    def full(path, objects):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("core.common.lines.append", full)
    assert command([parent, "tiny", "--json", "--metric", "test/accuracy"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [one["n"] for one in found["settings"]] == [3, 2]
    assert any("No space left on device; this look is not on record" in line for line in found["warnings"])
    assert any(lost in line for line in [*found["warnings"], *found["skipped"]])
    assert any(other[2] in line for line in found["skipped"])
    assert "No space left on device" in err
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    out = capsys.readouterr().out
    assert "No space left on device; this look is not on record" in out
    assert "base beats plain" in out or "no difference shown" in out


def test_a_ledger_that_cannot_be_read_costs_a_warning(lab, home, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.962))
    seeds(lab, PLAIN, (0.95, 0.953), variant="plain")
    paths.ledger().mkdir()
    assert command(["tiny", "--metric", "test/accuracy"]) == 0
    assert (
        "ledger.jsonl: Is a directory; how often the test split has been read is not known" in capsys.readouterr().out
    )
    assert command(["tiny", "--metric", "test/accuracy", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "ledger.jsonl: Is a directory" in json.loads(out)["warnings"][0]
    assert "ledger.jsonl: Is a directory" in err


def test_without_a_base_the_note_names_the_baseline(lab):
    seeds(lab, PLAIN, (0.95, 0.953), variant="plain")
    seeds(lab, EXPERIMENT.but({"epochs": 5}), (0.96, 0.962), variant="baseline_of_old")
    found, _ = rows(["tiny"])
    note = "no base among these runs: plain was trained first; --baseline names another setting"
    assert note in compare(found, "test/accuracy").notes
    assert note not in compare(found, "test/accuracy", baseline="plain").notes


def test_settings_that_share_no_seeds_are_told_to_be_unpaired(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.962))
    for seed in (5, 6):
        lab(PLAIN.but({"seed": seed}), 0.95 + seed / 1000, variant="plain")
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert "not paired, for lack of two seeds in common with base: plain; " in found.notes[0]
    assert "unpaired" in next(sentences(found))


def test_the_table_for_latex_has_the_best_in_bold_and_no_bare_signs(lab, tmp_path):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965, 0.961))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954, 0.951), variant="pla_in & 5%")
    path = tmp_path / "table.tex"
    assert command(["tiny", "--latex", str(path)]) == 0
    text = path.read_text()
    assert r"base & 4 & $\mathbf{96.20} \pm 0.34$ & baseline \\" in text
    assert r"pla\_in \& 5\% & 4 & $95.20 \pm" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert "$n = 4$ seeds" in text


def test_a_setting_is_equivalent_only_if_that_is_shown(lab, capsys):
    seeds(lab, EXPERIMENT, (0.960, 0.962, 0.961, 0.963, 0.962, 0.961))
    seeds(lab, PLAIN, (0.9601, 0.9619, 0.9611, 0.9629, 0.9621, 0.9609), variant="plain")
    assert command(["tiny", "--equivalent", "0.3"]) == 0
    assert "no difference shown; shown to be within 0.30 points of it" in capsys.readouterr().out
    assert command(["tiny", "--equivalent", "0.001"]) == 0
    assert "not shown to be within 0.00 points of it" in capsys.readouterr().out
    with pytest.raises(UserError, match="should be more than 0"):
        command(["tiny", "--equivalent", "-1"])
    (one,) = compare(*rows(["tiny"])[:1], "val/accuracy").contrasts
    low, high = looks.Looks((one.difference,)).interval(2 * LEVEL)  # two tests, each at the level of one side
    assert one.margin == pytest.approx(max(-low, high))


def test_numbers_by_a_field_state_what_they_are_over_and_agree(lab):
    for epochs in (10, 20, 30, 40, 50):
        lab(EXPERIMENT.but({"loss.label_smoothing": 0.0, "epochs": epochs}), 0.9 + epochs / 1000)
    for epochs in (10, 20, 30):
        lab(EXPERIMENT.but({"loss.label_smoothing": 0.1, "epochs": epochs}), 0.92 + epochs / 1000 + epochs % 20 / 1e4)
    found = compare(*rows(["tiny"])[:1], "test/accuracy", by="loss.label_smoothing")
    (line,) = sentences(found)
    alike = "3 paired runs, alike in all but loss.label_smoothing"
    means = "with the means 94.07 of loss.label_smoothing=0.1 and 92.00 of loss.label_smoothing=0.0"
    assert f"{alike}, {means}" in line
    assert "beats loss.label_smoothing=0.0 by 2.07 points" in line  # the mean in the table is over five runs
    assert [row[1] for row in table(found)] == ["3", "5"]
    assert table(found)[0][4].endswith("(3 pairs)")


def test_smoke_runs_are_left_out_where_there_are_others(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.94))
    lab(EXPERIMENT.but({"limit": 64}), 0.2)
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert len(found.groups) == 1
    assert found.notes == ("skipped runs with limited data, or pruned: 1",)


def test_the_parent_of_seeds_stands_for_them(lab):
    parent = lab(EXPERIMENT, 0.0, seeds=2)
    seeds(lab, EXPERIMENT, (0.96, 0.94), parent=parent)
    seeds(lab, PLAIN, (0.9, 0.91))
    found, left = rows([parent])
    assert sorted(row.metrics["test/accuracy"] for row in found) == [0.94, 0.96]
    assert left == []


def test_the_command_writes_csv_and_markdown_that_agree(lab, tmp_path, capsys, monkeypatch):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    words = ["compare", "tiny", "--csv", str(tmp_path / "a.csv"), "--markdown", str(tmp_path / "a.md")]
    monkeypatch.setattr("sys.argv", ["labbook", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "base beats plain by 1.00 points" in capsys.readouterr().out
    written = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["setting"] for row in written] == ["base", "plain"]
    assert float(written[1]["difference"]) == pytest.approx(-0.01)
    assert written[1]["loss.label_smoothing"] == "0.0"
    assert "| base | 3 | 96.23" in (tmp_path / "a.md").read_text()


def test_the_picture_shows_every_setting_and_its_difference_and_is_the_same_for_the_same_numbers(lab, tmp_path):
    seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965))
    seeds(lab, PLAIN, (0.95, 0.953, 0.954), variant="plain")
    lab(PLAIN.but({"seed": 3}), 0.0, variant="plain", status="FAILED")
    words = ["tiny", "--by", "augment", "--baseline", "augment=()"]
    drawn = [tmp_path / name for name in ("a.svg", "b.svg", "a.png")]
    for path in drawn:
        assert command([*words, "--picture", str(path)]) == 0
    shown = "".join(ElementTree.parse(drawn[0]).getroot().itertext())
    for text in (
        "augment=()",
        "(n\u00a0=\u00a03\u00a0of\u00a04)",
        "baseline",
        "95.23",
        "+1.00",
        "val/accuracy, %",
        "points",
    ):
        assert text in shown, text
    (difference,) = compare(*rows(["tiny"])[:1], "test/accuracy", baseline="plain").contrasts
    _, right = forest_plot.forest(compare(*rows(["tiny"])[:1], "test/accuracy", baseline="plain")).axes
    lines = [[float(x) for x in line.get_xdata()] for line in right.lines]
    assert [0, 0] in lines
    assert [100 * difference.low, 100 * difference.high] in lines
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    assert drawn[0].stat().st_size < 50_000
    assert forest_plot.embedded_table(drawn[0]) == forest_plot.embedded_table(drawn[2])
    assert "95.23" in forest_plot.embedded_table(drawn[0])
    with Image.open(drawn[2]) as image:
        assert 700 < image.width < 1000
        colors = {color for _, color in image.convert("RGB").getcolors(100_000)}
    assert (0, 114, 178) in colors  # a difference that is shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tiny", "--picture", "a.jpg"], "--picture a.jpg: should end in .svg or .png"),
        (["tiny", "--picture", "/nowhere/a.svg"], "/nowhere/a.svg: No such file or directory"),
        (["tin"], "did you mean tiny"),
        (["tiny", "--metric", "test/acuracy"], "did you mean test/accuracy"),
        (["tiny", "--by", "optimizer.lrr"], "did you mean optimizer.lr"),
        (["tiny", "--baseline", "plan"], "did you mean plain"),
        (["tiny", "--csv", "/nowhere/a.csv"], "/nowhere/a.csv: No such file or directory"),
        (["tiny", "--nonsense"], "--nonsense"),
        ([], "NAME|RUN is missing"),
    ],
)
def test_bad_input_is_one_message(lab, words, message, monkeypatch, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.962))
    seeds(lab, PLAIN, (0.95, 0.953), variant="plain")
    monkeypatch.setattr("sys.argv", ["labbook", "compare", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_markdown_and_csv_of_one_setting_have_no_difference(lab):
    seeds(lab, EXPERIMENT, (0.96, 0.962))
    found = compare(*rows(["tiny"])[:1], "test/accuracy")
    assert list(sentences(found)) == []
    assert markdown(found).count("\n") == 4
    assert len(as_csv(found).splitlines()) == 2


def test_the_page_has_curves_with_bands_and_matrices_and_fetches_nothing(lab, home):
    names = seeds(lab, EXPERIMENT, (0.96, 0.962, 0.965)) + seeds(lab, PLAIN, (0.9501, 0.952, 0.9551), variant="<plain>")
    for number, name in enumerate(names):
        journal = Journal(home / "mlruns" / "runs" / name)
        for epoch in (1, 2, 3):
            journal.metrics(epoch, {"val/accuracy": 0.5 + epoch / 10 + number / 100, "train/loss": 1 / epoch})
        journal.artifact("confusion_matrix.csv").write_text("true,one,two\none,3,1\ntwo,0,4\n")
    text = page(compare(*rows(["tiny"])[:1], "test/accuracy"))
    assert text.count("<svg") == 3
    assert "&lt;plain&gt;" in text
    assert "<plain>" not in text
    assert "base beats &lt;plain&gt; by" in text
    assert not re.search(r"(src|href)=.https?:", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    assert "<script" not in text


def test_a_band_is_the_interval_of_the_seeds_that_came_so_far():
    epochs, (mean, low, high) = band([{1: 0.5, 2: 0.7}, {1: 0.7}])
    assert epochs == [1, 2]
    assert mean.tolist() == pytest.approx([0.6, 0.7])
    assert high[0] - mean[0] == pytest.approx(12.706 * 0.1, rel=1e-3)  # t of one degree of freedom
    assert np.isnan(low[1])


@pytest.mark.parametrize("damage", ["", "garbage\n", "{}\n"])
@pytest.mark.parametrize("file", ["journal.jsonl", "summary.json", "artifacts/record.json"])
def test_a_damaged_run_is_left_out_and_the_others_compared(lab, home, file, damage):
    good, bad = seeds(lab, EXPERIMENT, (0.96, 0.95))
    (home / "mlruns" / "runs" / bad / file).write_text(damage)
    found, left = rows(["tiny"])
    if file == "summary.json":  # the journal knows how it ended, not what it measured last
        assert [(row.id, dict(row.metrics)) for row in found][1:] == [(bad, {})]
    else:
        assert [row.id for row in found] == [good]
        assert bad in left[0]


def test_a_record_of_another_version_is_refused_with_the_reason_and_the_rest_compared(lab, home, capsys):
    old, new, _ = seeds(lab, EXPERIMENT, (0.9, 0.91, 0.92))
    for run, version in ((old, 0), (new, 9)):
        (home / "mlruns" / "runs" / run / "artifacts" / "record.json").write_text(f'{{"labbook": {version}}}')
    assert command(["tiny"]) == 0
    out = capsys.readouterr().out
    assert "92.00 %" in out
    assert re.search(f"skipped: {old}: .*version 0, .*: it is too old for this labbook", out)
    assert re.search(f"skipped: {new}: .*version 9, .*: use the labbook that wrote it", out)


def test_the_time_of_a_run_is_that_of_its_rates_also_where_it_was_resumed_at_an_epochs_end(home):
    run = Run(home / "mlruns" / "runs" / "tiny-x")
    journal = Journal(run.folder)
    for epoch, rate in enumerate((100.0, 0.0, 50.0), 1):
        journal.metrics(epoch, {"images_per_second": rate})
    journal.artifact("record.json").write_text('{"labbook": 2, "data": {"train": 200}}')
    assert run.seconds == 6.0


def test_a_field_younger_than_some_runs_sets_nothing_apart_that_nobody_changed(lab):
    older = seeds(lab, EXPERIMENT, (0.9, 0.91), lacking=("tta", "loss.label_smoothing"))
    seeds(lab, EXPERIMENT, (0.9, 0.91, 0.92))
    focal = EXPERIMENT.but({"loss": "FocalLoss"})
    seeds(lab, focal, (0.8, 0.81))
    found = compare(rows(["tiny"])[0], "test/accuracy")
    assert [len(group.rows) for group in found.groups] == [5, 2]
    assert {row.id for row in found.groups[0].rows} >= set(older)
    seeds(lab, EXPERIMENT.but({"tta": "flip"}), (0.95, 0.96))
    found = compare(rows(["tiny"])[0], "test/accuracy")
    assert sorted(len(group.rows) for group in found.groups) == [2, 2, 2, 3]  # what the older ones had, nobody knows


def test_an_ignored_field_sets_nothing_apart(lab):
    for seed, value in enumerate((0.9, 0.91, 0.95)):
        lab(EXPERIMENT.but({"seed": seed}), value - 0.02 - 0.001 * seed)
        lab(EXPERIMENT.but({"seed": seed, "epochs": 50, "optimizer.lr": 0.1 + seed}), value)
    found = compare(rows(["tiny"])[0], "test/accuracy", ignore=["optimizer.lr"])
    assert [(group.label, len(group.rows)) for group in found.groups] == [
        ("base (epochs=50)", 3),
        ("base (epochs=30)", 3),
    ]
    assert found.contrasts[0].difference.paired
    with pytest.raises(UserError, match=r"--ignore optimizer\.l: unknown field; did you mean optimizer\.lr"):
        compare(rows(["tiny"])[0], "test/accuracy", ignore=["optimizer.l"])

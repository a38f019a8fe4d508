"""labbook figures: numbers and pictures in Markdown, from runs on record."""

import pytest

from core.cli.figures import main
from core.common.errors import UserError
from core.compare import forest_plot
from core.figures.markers import markers
from experiments.tiny import EXPERIMENT, VARIANTS
from tests.support.records import seeds

PLAIN = EXPERIMENT.but(VARIANTS["plain"])
LR = EXPERIMENT.but({"optimizer.lr": 0.3})


def figure(words, text, metric="test/accuracy"):
    return f"<!-- figure {metric}: {words} -->{text}<!-- /figure -->"


@pytest.fixture
def page(tmp_path):
    """Writes a Markdown file."""

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text)
        return path

    return write


def test_numbers_are_updated_in_the_format_of_the_old_ones(lab, page, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.97, 0.98))
    seeds(lab, PLAIN, (0.9, 0.91, 0.95), variant="plain")
    lab(LR, 0.5)
    text = """# title

| base | {} test accuracy | {} |
| plain | {} | {} |
And {} with another rate.
"""
    shapes = [
        ("tiny seeds=3", "0.00 % +- 0.00", "97.00 % +- 2.48"),
        ("tiny seeds=3", "0.0 (n = 9)", "97.0 (n = 3)"),
        ("tiny variant=plain seeds=3", "92 +- 1", "92 +- 7"),
        ("tiny variant=plain seeds=3", "1.0, 2.0, 3.0", "90.0, 91.0, 95.0"),
        ("tiny optimizer.lr=0.3", "0.000", "0.500"),
    ]
    metrics = ["test/accuracy"] * 4 + ["test/loss"]
    path = page(text.format(*(figure(words, old, m) for (words, old, _), m in zip(shapes, metrics, strict=True))))
    assert main([str(path)]) == 0
    assert path.read_text() == text.format(
        *(figure(words, new, m) for (words, _, new), m in zip(shapes, metrics, strict=True))
    )
    out = capsys.readouterr().out
    assert "page.md:3: tiny base test/accuracy: 0.00 % +- 0.00 -> 97.00 % +- 2.48" in out
    assert "5 of 5 figures and pictures are on record, 5 changed; 0 lack runs" in out
    assert main([str(path), "--check"]) == 0


def test_check_tells_and_writes_nothing(lab, page, capsys):
    lab(EXPERIMENT, 0.96)
    path = page(f"It is {figure('tiny', '12.3 %')}.\n")
    before = path.read_text()
    assert main([str(path), "--check"]) == 1
    assert path.read_text() == before
    assert "page.md:1: tiny base test/accuracy: 12.3 % -> 96.0 %" in capsys.readouterr().out


def test_only_whole_runs_of_todays_declaration_and_seeds_count_and_what_lacks_is_named(lab, page, home, capsys):
    seeds(lab, EXPERIMENT, (0.96, 0.97))
    lab(EXPERIMENT.but({"seed": 2}), 0.0, status="FAILED", error="NonFinite: step 7")
    lab(EXPERIMENT.but({"seed": 3}), 0.0, status="RUNNING")
    lab(EXPERIMENT.but({"seed": 4, "limit": 64}), 0.1)
    pruned = home / "mlruns" / "runs" / lab(EXPERIMENT.but({"seed": 4}), 0.2) / "summary.json"
    pruned.write_text(pruned.read_text().replace('"whole": true', '"whole": false'))
    lab(EXPERIMENT.but({"seed": 5}), 0.99)
    seeds(lab, LR, (0.5, 0.5, 0.5))
    text = f"x {figure('tiny seeds=5', '99.28 % +- 0.31')} y {figure('tiny seeds=2', '1.0')}\n"
    path = page(text)
    assert main([str(path)]) == 1
    assert path.read_text() == text.replace(">1.0<", ">96.5<")
    assert (
        "page.md:1: tiny base: 2 of 5 seeds on record (seed 2: NonFinite: step 7; seed 3: running, or "
        "interrupted; 3 runs have another declaration, which differs in optimizer.lr); "
        "python -m experiments.tiny --seeds 5\n"
    ) in capsys.readouterr().out


def test_a_field_younger_than_a_run_counts_as_it_is_by_default(lab, page, capsys):
    older = ("tta", "optimizer.nesterov")  # one by default none, one that is not declared as it is by default
    seeds(lab, EXPERIMENT, (0.96, 0.98), lacking=older[:1])
    assert main([str(page(f"x {figure('tiny seeds=2', '1.0')}\n"))]) == 0
    lab(LR, 0.5, lacking=older)
    capsys.readouterr()
    assert main([str(page(f"x {figure('tiny optimizer.lr=0.3', '1.0')}\n"))]) == 1
    assert "0 of 1 seeds on record (3 runs have another declaration" in capsys.readouterr().out


def test_without_any_run_the_command_is_printed(page, capsys):
    path = page(f"x {figure('tiny variant=mlp optimizer.lr=0.2 seeds=5', '1.0 %')}\n")
    assert main([str(path)]) == 1
    assert "page.md:1: tiny mlp: 0 of 5 seeds on record; python -m experiments.tiny --variant mlp " in (
        out := capsys.readouterr().out
    )
    assert "--optimizer.lr 0.2 --seeds 5\n" in out


def test_runs_on_different_data_make_no_figure(lab, page, capsys):
    lab(EXPERIMENT, 0.96)
    lab(EXPERIMENT.but({"seed": 1}), 0.96, data="d2")
    path = page(f"x {figure('tiny seeds=2', '1.0 %')}\n")
    assert main([str(path)]) == 1
    assert "tiny base: these runs used 2 different data sets (d1 in 1 run, d2 in 1 run)" in capsys.readouterr().out


def test_a_picture_is_drawn_again_when_its_numbers_change_and_only_then(lab, page, capsys):
    for name, changes in (("", {}), *VARIANTS.items()):
        seeds(lab, EXPERIMENT.but(changes), (0.96, 0.97), variant=name or None)
    path = page("![all](all.svg)<!-- picture test/accuracy: tiny seeds=2 baseline=plain -->\n")
    picture = path.with_name("all.svg")
    assert main([str(path), "--check"]) == 1
    assert not picture.exists()
    assert main([str(path)]) == 0
    assert "plain | 2 | 96.50 +- 6.35 % | 97.00 | baseline" in forest_plot.embedded_table(picture)
    first = picture.stat().st_mtime_ns
    assert main([str(path)]) == 0
    assert picture.stat().st_mtime_ns == first
    lab(PLAIN, 0.5, variant="plain")
    assert main([str(path)]) == 0
    assert "plain | 2 | 73.50" in forest_plot.embedded_table(picture)
    assert "page.md:1: all.svg drawn again" in capsys.readouterr().out


def test_a_metric_that_the_declaration_adds_can_be_shown(page):
    (marker,) = markers(page("AUROC " + figure("tiny metrics=AUROC", "0.98", "test/auroc")))
    assert marker.metric == "test/auroc"
    with pytest.raises(UserError, match="test/auroc: unknown metric"):
        markers(page("AUROC " + figure("tiny", "0.98", "test/auroc")))


BAD = {
    figure("tin", "1.0"): "page.md:3: tin: unknown experiment; did you mean tiny",
    figure("tiny variant=plan", "1.0"): "page.md:3: variant plan: unknown variant; did you mean plain?",
    figure("tiny optimizer.lrr=1", "1.0"): "page.md:3: optimizer.lrr: unknown option",
    figure("tiny seeds", "1.0"): "page.md:3: seeds: should be option=value",
    figure("tiny --seeds=3", "1.0"): "GitHub would show a comment with --",
    figure("tiny", "1.0", "test/acuracy"): "test/acuracy: unknown metric; did you mean test/accuracy",
    figure("tiny", "about ten"): "'about ten': should look like 72.06 % +- 0.97",
    figure("tiny", "1.0 +- 0.1"): "one seed has no interval; add seeds=N",
    "<!-- figure test/accuracy: tiny -->1.0": "page.md:3: a figure should be written on one line as <!-- figure METRIC",
    "1.0<!-- /figure -->": "page.md:3: a figure should be written",
    "<!-- picture test/accuracy: tiny -->": "page.md:3: a picture should be written on one line as ![TEXT](FILE.svg)",
    "![a](a.gif)<!-- picture test/accuracy: tiny -->": "a.gif: the name of a picture should end in .svg or .png",
    "![a](no/a.svg)<!-- picture test/accuracy: tiny -->": "no/a.svg: folder not found",
    "![a](a.svg)<!-- picture test/accuracy: tiny baseline=no -->": "baseline=no: unknown variant",
    "![a](a.svg)<!-- picture test/accuracy: tiny variant=mlp -->": "variant: a picture shows all variants",
}


@pytest.mark.parametrize(("marker", "message"), BAD.items(), ids=list(BAD.values()))
def test_an_invalid_marker_is_an_error_with_file_and_line(marker, message, page):
    path = page(f"one\n\n| {marker} |\n")
    with pytest.raises(UserError) as wrong:
        main([str(path)])
    assert message in str(wrong.value)


def test_all_errors_are_reported_at_once_and_code_blocks_contain_no_markers(page):
    marker = figure("tiny", "1.0")
    assert markers(page(f"```text\n{marker} <!-- figure\n```\n")) == []
    with pytest.raises(UserError, match=r"(?s)page\.md:1: GitHub does not format.*page\.md:2: .*unknown metric"):
        main([str(page(f"{marker} is raw\nx {figure('tiny', '1.0', 'speed')}\n"))])
    with pytest.raises(UserError, match=r"nowhere\.md: No such file"):
        main(["nowhere.md"])

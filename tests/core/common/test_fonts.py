"""Names in pictures: no class name can fail a run, and each is drawn as text or as an announced stand-in."""

import os
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array

from core.common import fonts, plots
from core.common.fonts import drawing, fonts_for, one_line, with_stand_ins
from core.common.terminal import tell
from core.launch import Launch
from core.runs.train import train
from core.runs.trained import load
from data import ImageFolder
from experiments.tiny import EXPERIMENT

ODD = (
    b"$100_$200",
    b"a\nb",
    b"\xff\xfe",
    "猫".encode(),
    "한국".encode(),
    b"_x",
    b"\x1b[31mred",
    b"\\frac{1",
    b"y" * 200,
)
pytestmark = pytest.mark.pictures
QUIET = Launch(mlflow=False, threads=1)


def odd_classes(folder):
    generator = np.random.default_rng(0)
    for name in ODD:
        (place := folder / os.fsdecode(name)).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"{number}.png")
    return folder


def a_run(tmp_path):
    changes = {"data": ImageFolder(size=16), "augment": (), "epochs": 2, "batch_size": 16}
    launch = QUIET.but({"root": odd_classes(tmp_path / "images")})
    return train(EXPERIMENT.but(changes), launch)


def test_odd_class_names_are_drawn_and_tabled(tmp_path, home, capsys):
    run = a_run(tmp_path)
    artifacts = run.folder / "artifacts"
    assert run.status == "FINISHED"
    for name in ("look.png", "confusion_matrix.png", "learning_curves.png", "reliability.png", "mistakes.png"):
        assert (artifacts / name).stat().st_size > 1000
    classes, table = run.confusion
    assert {"$100_$200", "a\nb", "猫", "\\udcff\\udcfe"} <= {*classes}
    assert table.shape == (len(ODD), len(ODD))
    assert "\\udcff" in (artifacts / "report.html").read_text()
    assert "report" not in run.tags
    assert "was left out" not in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["confusion_matrix", "learning_curves", "contact_sheet"])
def test_what_cannot_be_drawn_is_left_out_with_one_line(home, capsys, monkeypatch, broken):
    def draw(*_):
        raise ValueError("no such glyph\nand more")

    monkeypatch.setattr(plots, broken, draw)
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), QUIET)
    assert run.status == "FINISHED"
    assert "report" not in run.tags
    told = [line for line in capsys.readouterr().out.splitlines() if "was left out" in line]
    name = {"confusion_matrix": plots.MATRIX, "learning_curves": plots.CURVES, "contact_sheet": "look.png"}[broken]
    assert f"{name} was left out, because it could not be made: ValueError: no such glyph" in told
    assert load(run.id).metrics["test/accuracy"] >= 0


def test_a_full_disk_is_still_an_error():
    with pytest.raises(OSError, match="No space"), plots.optional("a"):
        raise OSError(28, "No space left on device")


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_categories=()), max_size=8), min_size=2, max_size=4))
def test_any_name_can_be_drawn_without_boxes(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "picture.png"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that no font has
        plots.confusion_matrix(coo_array(np.eye(len(names), dtype=int)), names, path, "")
    plots.contact_sheet(np.zeros((len(names), 8, 8, 3), np.uint8), names, path)
    for name in names:
        assert "\n" not in one_line(name)
        one_line(name).encode()


def test_letters_that_no_font_has_are_announced_once_with_their_stand_ins(monkeypatch, capsys):
    from matplotlib import font_manager

    monkeypatch.setattr(fonts, "_announced", set())
    kept = [entry for entry in font_manager.fontManager.ttflist if entry.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", kept)
    for _ in range(2):
        with drawing(["猫 한 é", "$a$"]) as text:
            assert text("猫 한 é") == "[732B] han é"
            assert text("$a$") == r"\$a\$"
    told = capsys.readouterr().out
    assert told.count("猫 as [732B], 한 as han") == 1


def test_a_font_that_has_the_letters_is_found():
    found, missing = fonts_for(["é ⟨x⟩ ∫ \U0001d7d8"])  # the last one is in no face of DejaVu Sans Condensed
    assert not missing or with_stand_ins("\U0001d7d8", missing).startswith("[")
    assert found[0].family == fonts.DEFAULT
    assert {"é", "∫"} <= found[0].has


def test_a_name_that_is_not_utf_8_does_not_end_the_printing(capsys):
    tell(os.fsdecode(b"a\xff"))
    tell("b")
    assert capsys.readouterr().out == "a\\udcff\nb\n"

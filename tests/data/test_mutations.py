"""Damaged image files: none crashes, hangs, or passes for something that it is not."""

import subprocess

import numpy as np
import pytest

from data.reading import decode as module
from tests.support import mutations
from tests.support.mutations import Wrong, corpus, examine, judged, mutated

pytestmark = pytest.mark.filterwarnings("ignore")


def test_300_damaged_images_are_decoded_or_refused_by_name(tmp_path):
    assert examine(0, 300, tmp_path) == []


def test_the_damage_is_reproducible_and_of_every_outcome():
    numbers = range(200)
    assert [mutated(number) for number in numbers] == [mutated(number) for number in numbers]
    assert {judged(number, 16) for number in numbers} == {True, False}
    assert {mutated(number)[0].partition(".")[2] for number in numbers} == set(mutations.SUFFIXES.values())
    for form, content in corpus():
        assert module.decode(content, form).ndim == 3, form


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels[1:], "it declares"),
        (lambda pixels: pixels.astype(np.float32), "float32"),
        (lambda pixels: pixels[..., :1], "decoded to uint8"),
    ],
    ids=["size", "type", "channels"],
)
def test_what_is_silently_wrong_is_noticed(change, message, monkeypatch):
    number = next(number for number in range(100) if judged(number, None))
    decoded = mutations.decode
    monkeypatch.setattr(mutations, "decode", lambda *arguments: change(decoded(*arguments)))
    with pytest.raises(Wrong, match=message):
        judged(number, None)


@pytest.mark.slow
def test_cut_files_that_are_filled_up_are_noticed(monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    wrong = 0
    for number in range(300):
        try:
            judged(number, None)
        except Wrong:
            wrong += 1
    assert wrong


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('at 7', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "7: .*SIGSEGV"),
        ("print('at 8', flush=True); import time; time.sleep(60)", "8: it hung"),
    ],
    ids=["crash", "hang"],
)
def test_crashes_and_hangs_are_seen(code, message, tmp_path, monkeypatch):
    import re

    popen = subprocess.Popen
    monkeypatch.setattr(mutations, "PATIENCE", 3.0)
    monkeypatch.setattr(mutations.subprocess, "Popen", lambda words, **more: popen([words[0], "-c", code], **more))
    (wrong,) = examine(0, 1, tmp_path)
    assert re.match(message, wrong)

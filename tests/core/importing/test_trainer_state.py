"""labbook import reads what Hugging Face's Trainer has logged; the fixture was written by that of transformers 5."""

import json
import shutil
from pathlib import Path

import pytest

from core.cli.import_ import main
from core.common.errors import UserError
from core.runs.trained import Run

STATE = Path(__file__).parents[2] / "fixtures/huggingface/trainer_state.json"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("core.tracking.api.sync", lambda folders: [])


def output(folder):
    """What a Trainer leaves: a state in each checkpoint, of which the first has logged less, and one around them."""
    state = json.loads(STATE.read_text())
    for step in (5, 10):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        logged = [entry for entry in state["log_history"] if entry["step"] <= step and "train_runtime" not in entry]
        (checkpoint / "trainer_state.json").write_text(json.dumps(state | {"log_history": logged}))
    shutil.copy(STATE, folder)
    return folder


def imported(home):
    return [Run(path) for path in sorted((home / "mlruns" / "runs").glob("*"))]


def test_an_output_is_one_run_with_its_usual_names(home, tmp_path, capsys):
    output(tmp_path / "vit" / "first")
    assert main([str(tmp_path / "vit")]) == 0
    (run,) = imported(home)
    history = run.history
    assert history["val/accuracy"] == {1: 0.625, 2: 0.625}  # by epoch, as in labbook
    assert history["val/loss"] == {1: 0.6506213545799255, 2: 0.6506076455116272}
    assert history["train/loss"] == {3: 0.6357364654541016, 6: 0.6923681894938151, 9: 0.6201144854227701}
    assert history["lr"] == {3: 4e-05, 6: 2.5e-05, 9: 1e-05}
    assert run.params == {"epochs": "2", "max_steps": "10", "train_batch_size": "8"}
    assert run.record["imported"]["kind"] == "Hugging Face"
    assert "imported first (Hugging Face" in capsys.readouterr().out
    assert main([str(tmp_path / "vit")]) == 0
    assert "first: already on record" in capsys.readouterr().out


def test_the_latest_checkpoint_counts_and_replaces_an_earlier_one(home, tmp_path, capsys):
    folder = output(tmp_path / "vit")
    (folder / "trainer_state.json").unlink()
    latest = (folder / "checkpoint-10").rename(tmp_path / "later")
    assert main([str(folder)]) == 0
    (before,) = imported(home)
    assert set(before.history["val/loss"]) == {1}
    latest.rename(folder / "checkpoint-10")
    assert main([str(folder)]) == 0
    assert f"replacing {before.id}" in capsys.readouterr().out
    run = next(run for run in imported(home) if run.id != before.id)
    assert set(run.history["val/loss"]) == {1, 2}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "trainer_state.json: is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no log_history, a list of what a Trainer of Hugging Face has logged"),
        ('{"log_history": [1]}', "has no log_history"),
        ('{"log_history": [{"loss": 1.0}]}', "entry 1 of log_history has no integer step"),
        ('{"log_history": []}', "nothing was logged in it yet"),
        ('{"log_history": [{"step": 3, "epoch": NaN, "note": "text", "loss": true}]}', "nothing was logged in it yet"),
    ],
)
def test_what_is_not_such_a_file_is_refused_in_plain_words(home, tmp_path, text, reason):
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        main([str(tmp_path)])

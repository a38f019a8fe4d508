"""The power is cut at a system call of a run: what was reported is there, and the rest is trained again."""

import pytest

from core.common import paths
from core.launch import Launch
from core.record import journal
from core.record.journal import damage
from core.record.run import RECORD, intact
from core.record.summary import read_summary
from core.runs.resume import lost_weights, resume
from core.runs.train import train
from core.runs.trained import Run
from core.training import checkpoint
from experiments.tiny import EXPERIMENT
from tests.support.power import rebuild, recorded
from tests.support.runs import digest, points

SHORT = EXPERIMENT.but({"epochs": 2, "limit": 320, "monitor": "val/accuracy"})
QUIET = Launch(mlflow=False, threads=1, workers=0, checkpoint_every="4", log_every=2)
ENOUGH = 12  # cuts of the fast suite


def _on_disk(home, patch):
    """(the run, its states on disk), of a training."""
    patch.setenv("LABBOOK_HOME", str(home))
    with recorded(home, patch) as power:
        run = train(SHORT, QUIET, "tiny")
    return run, power.states


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        yield _on_disk(home, patch)


def _wrong(disk, whole, home, patch):
    """What is wrong after a restart from this state of the disk, and a resume."""
    home.mkdir()
    rebuild(disk, home)
    patch.setenv("LABBOOK_HOME", str(home))
    runs = [Run(path.parent.parent) for path in sorted(paths.runs().glob(f"*/artifacts/{RECORD}"))]
    for run in runs:
        if not list(intact([run])):
            if run.folder.joinpath(journal.FILE).stat().st_size and RECORD in _named(run):
                return f"{run.id} cannot be read"
            continue
        if lost := [wrong for name in _named(run) if (wrong := damage(run.folder, name))]:
            return f"the journal names {lost}"
        saved, half = checkpoint.latest(run.folder / checkpoint.CHECKPOINTS)
        if half:
            return f"half a checkpoint: {half}"
        if saved and saved.state["history"] and (lost := lost_weights(run)):
            return f"the weights are lost: {lost}"
        if run.status == "FINISHED":
            if not (run.folder / "summary.json").read_text() or not read_summary(run):
                return "FINISHED without its summary"
        else:
            resume(run)
        if digest(run) != digest(whole):
            return "other weights"
        if points(run) != points(whole):
            return "other metrics"
    return ""


def _named(run):
    return {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}


def _mistakes(whole, states, tmp_path, patch):
    found = []
    for number, (name, disk) in enumerate(states):
        try:
            wrong = _wrong(disk, whole, tmp_path / str(number), patch)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        found += [f"{name}: {wrong}"] if wrong else []
    return found


def test_cuts_lose_nothing_that_was_reported(trained, tmp_path, monkeypatch):
    whole, states = trained
    assert len(states) > ENOUGH
    every = len(states) / ENOUGH
    assert not _mistakes(whole, [states[int(number * every)] for number in range(ENOUGH)], tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_cut_at_any_system_call_loses_nothing_that_was_reported(trained, tmp_path, monkeypatch):
    whole, states = trained
    assert not _mistakes(whole, states, tmp_path, monkeypatch)

"""Removing runs: what is freed, what others stand on, and a kill at any moment."""

import json
import os
import signal

import pytest

from core.cli import rm
from core.common import paths
from core.common.errors import UserError
from core.methods import Distill
from core.record import lock
from core.record.journal import Journal
from core.record.latest import link_latest
from core.record.removal import refuse_needed, remove, size_of
from core.record.run import RecordedRun
from experiments.tiny import EXPERIMENT


@pytest.fixture
def run(lab):
    """Puts a run on record, with more in its record."""
    return lambda name="tiny", **more: RecordedRun(paths.runs() / lab(EXPERIMENT, 0.5, name=name, **more))


def ids():
    return sorted(path.name for path in paths.runs().iterdir())


def refused(*runs):
    with pytest.raises(UserError) as caught:
        remove(runs)
    return str(caught.value)


def test_a_run_is_removed_with_its_space_told_after_asking(run, capsys, monkeypatch):
    gone, kept = run(), run()
    (gone.folder / "artifacts" / "large").write_bytes(bytes(3 << 20))
    with pytest.raises(UserError, match=r"1 run, 3.0 MB: not removed, because nobody can be asked here; --yes"):
        rm.main([gone.id])
    monkeypatch.setattr(rm, "is_terminal", lambda: True)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert rm.main([gone.id]) == 1
    assert asked == ["Remove 1 run, 3.0 MB, for good? [y/N] "]
    assert ids() == sorted([gone.id, kept.id])
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert rm.main([gone.id]) == 0
    assert "removed: 1 run, 3.0 MB" in capsys.readouterr().out
    assert ids() == [kept.id]
    assert not list((paths.runs().parent / "removed").iterdir())


def test_what_others_stand_on_is_refused_with_the_reason(run):
    base = run()
    above = run(seeds=2)
    one, two = run(parent=above.id), run(parent=above.id)
    needed = {
        "continued": run("other", continued=base.id),
        "combined.run": run("other", combined=[{"run": base.id, "weight": 1.0}]),
        "weights.name": run("other", weights={"name": base.id, "sha256": "00"}),
        "declaration.method.teacher": run("other", declaration={"method": {"teacher": base.id[:-2]}}),
        "declaration.model.weights": run("other", declaration={"model": {"weights": f"/a/{base.id}/artifacts/w.pt"}}),
    }
    said = refused(base)
    for place, other in needed.items():
        assert f"{base.id} is needed by {other.id}: it is in the record ({place})" in said
    assert f"{above.id} is the parent of {one.id}, {two.id}; to remove all: labbook rm --children" in refused(above)
    assert f"{one.id}: of the runs that {above.id} summarizes; to remove all: labbook rm" in refused(one)
    assert rm.main(["--children", above.id, "--yes"]) == 0
    assert not {above.id, one.id, two.id} & set(ids())
    remove([*needed.values(), base])  # together with all that stands on it
    assert ids() == []


@pytest.mark.parametrize("word", ["latest", "tiny/latest", "other,latest"])
def test_the_teacher_that_latest_meant_is_needed_although_it_is_the_latest_no_more(run, word):
    taught = run()
    pupil = run("other", declaration=EXPERIMENT.but({"method": Distill(teacher=word)}).record())
    assert f"{taught.id} is needed by {pupil.id}: it is in the record (declaration.method.teacher)" in refused(taught)
    assert Distill(teacher="none/latest").teacher == "none/latest"


def test_texts_that_look_alike_name_no_run(run):
    gone = run()
    run("my-tiny", declaration={"data": "tiny", "note": f"my-{gone.id}", "other": f"{gone.id}0"})
    refuse_needed([gone])
    run(facts={"parameters": "1", "mlflow.source.name": f"python -m experiments.tiny --from {gone.id}"})
    refuse_needed([gone])  # a declaration that was copied needs its source no more


def test_a_record_that_cannot_be_read_needs_the_runs_that_it_names(run):
    gone = run()
    other = run("other", declaration={"method": {"teacher": gone.id}}, labbook=99)
    assert f"{gone.id} is needed by {other.id}" in refused(gone)


def test_a_model_in_the_registry_keeps_its_run(run, monkeypatch):
    gone = run()
    monkeypatch.setattr(rm, "models_of", lambda folders: {folder.name: ["digits version 3"] for folder in folders})
    with pytest.raises(
        UserError, match=r"needed by the registered model digits version 3; delete that first in MLflow"
    ):
        rm.main([gone.id, "--yes"])
    assert ids() == [gone.id]


def test_a_run_in_use_and_a_linked_run_are_left(run, tmp_path):
    used, linked = run(), run()
    with lock.locked(used.folder):
        assert "another process is using this run" in refused(used)
    linked.folder.rename(tmp_path / "elsewhere")
    linked.folder.symlink_to(tmp_path / "elsewhere")
    assert "remove it by hand" in refused(linked)
    assert ids() == sorted([used.id, linked.id])


@pytest.mark.parametrize(("point", "there"), [("run is removed", True), ("run was removed", False)])
def test_a_kill_leaves_the_whole_run_or_none(run, monkeypatch, point, there):
    gone, other = run(), run()
    files = sorted(path.relative_to(gone.folder) for path in gone.folder.rglob("*"))
    if not (child := os.fork()):
        os.environ["LABBOOK_FAILPOINT"] = point
        remove([gone])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert gone.folder.exists() == there
    if there:
        left = {path.relative_to(gone.folder) for path in gone.folder.rglob("*")}
        assert left - {path for path in left if path.suffix == ".lock" or path.name == "lock"} == set(files)
        assert RecordedRun.load(gone.id).record["run"] == gone.id
    remove([other])
    assert not list((paths.runs().parent / "removed").iterdir())  # also of the killed process


def test_links_lead_to_the_latest_run_that_is_left(run):
    first, second = run(), run()
    third = run("other")
    top = paths.runs().parent
    for one in (second, first, third):
        link_latest(one.folder, one.record["experiment"])
    assert (top / "latest").resolve() == third.folder.resolve()
    assert (top / "tiny" / "latest").resolve() == second.folder.resolve()
    assert os.readlink(top / "tiny" / "latest") == f"../runs/{second.id}"
    assert RecordedRun.load(top / "latest") == third
    assert RecordedRun.load("tiny/latest").id == second.id
    remove([second, third])
    assert (top / "latest").resolve() == (top / "tiny" / "latest").resolve() == first.folder.resolve()
    assert not (top / "other" / "latest").is_symlink()
    assert not list(top.rglob("*.part"))


def test_where_links_are_impossible_there_are_none(run, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(1, "Operation not permitted")

    one = run()
    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    link_latest(one.folder, "tiny")
    assert not (paths.runs().parent / "latest").exists()


def test_the_size_is_that_on_disk(run):
    one = run()
    before = size_of(one)
    Journal(one.folder).artifact("large").write_bytes(bytes(1 << 20))
    os.link(one.folder / "artifacts" / "large", one.folder / "again")
    assert size_of(one) - before == pytest.approx(1 << 20, rel=0.05)
    assert json.loads((one.folder / "artifacts" / "record.json").read_text())["run"] == one.id

"""A study that several machines share through a real PostgreSQL server (tests/support/postgresql.py).

Machines have nothing in common but the database: here, two homes, and owners renamed so that they look remote.
"""

import os
import signal
import time

import optuna
import pytest
import sqlalchemy

from core.search.storage import GRACE, OWNER, attached, open_storage
from core.search.trial import runs_by_trial
from tests.support import postgresql
from tests.support.studies import children, parent_of, wait_for

WORDS = ("experiments.tiny", "search", "--goal", "val/accuracy", "--limit", "320", "--threads", "1",
         "--mlflow", "false", "--pruner", "none")  # fmt: skip


class Studies(postgresql.Server):
    """A server that holds studies."""

    @property
    def url(self) -> str:
        return f"postgresql://labbook@127.0.0.1:{self.port}/studies"

    def study(self, name) -> optuna.Study:
        return optuna.load_study(study_name=name, storage=open_storage(self.url, self.folder))

    def trains(self, name) -> bool:
        """Whether a trial has reported its first epoch."""
        try:
            going = self.study(name).get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        except KeyError:
            return False
        return any(trial.intermediate_values for trial in going)

    def states(self, name) -> list[optuna.trial.TrialState]:
        """Of all trials; none before the study is there."""
        try:
            return [trial.state for trial in self.study(name).get_trials(deepcopy=False)]
        except KeyError:
            return []

    def move_elsewhere(self, study) -> int:
        """Let running trials look as those of a machine that fell silent long ago; how many there were."""
        going = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        for trial in going:
            attached(open_storage(self.url, self.folder), study, trial.number).set_user_attr(OWNER, "elsewhere:1")
        self.age()
        return len(going)

    def age(self):
        """Let all signs of life be long ago."""
        with sqlalchemy.create_engine(self.url.replace("://", "+psycopg://")).begin() as connection:
            past = f"UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '{2 * GRACE} seconds'"
            connection.execute(sqlalchemy.text(past))


@pytest.fixture(scope="module")
def server():
    with postgresql.served("studies", kind=Studies) as server:
        yield server


def counted(server, name):
    """Trials that count; those that one machine dropped for another do not."""
    return [t for t in server.study(name).get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]


@pytest.mark.slow
def test_two_machines_share_one_study(server, forge, tmp_path):
    words = (*WORDS, "--epochs", "2", "--trials", "8", "--storage", server.url, "--study", "shared")
    homes = [tmp_path / "one", tmp_path / "two"]
    first, second = [forge.start(*words, env={"LABBOOK_HOME": str(home)}) for home in homes]
    for process in (first, second):
        assert process.wait(240) == 0, process.text
    trials = counted(server, "shared")
    assert len(trials) == 8, first.text + second.text
    assert len({trial.user_attrs["owner"] for trial in trials}) == 2, "one machine did it all"
    assert optuna.trial.TrialState.RUNNING not in server.states("shared")
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(homes[0])})
    assert status == 0, text
    assert len(list((homes[0] / "mlruns" / "runs").glob("*/artifacts/best.json"))) == 1


def test_a_silent_machines_trial_is_done_again_and_what_it_still_trains_does_not_count(server, forge, tmp_path):
    words = (*WORDS, "--epochs", "40", "--trials", "2", "--storage", server.url, "--study", "silent")
    homes = [tmp_path / "one", tmp_path / "two"]
    asleep = forge.start(*words, env={"LABBOOK_HOME": str(homes[0])})
    wait_for(lambda: server.trains("silent"), asleep)
    asleep.kill(signal.SIGSTOP)
    try:
        assert server.move_elsewhere(server.study("silent")) == 1
        awake = forge.start(*words, env={"LABBOOK_HOME": str(homes[1])})
        wait_for(lambda: "whose machine stopped responding" in awake.text, awake)
    finally:
        asleep.kill(signal.SIGCONT)
    assert awake.wait(120) == 0, awake.text
    assert asleep.wait(120) == 0, asleep.text
    assert "was taken over by another machine" in asleep.text
    assert len(counted(server, "silent")) == 2
    assert optuna.trial.TrialState.RUNNING not in server.states("silent")
    runs = [run for home in homes for run in runs_of(home)]
    assert sorted(run.status for run in runs) == ["FINISHED", "FINISHED", "KILLED"]


@pytest.mark.slow
def test_a_machine_that_comes_back_ends_what_others_have_done_since(server, forge, tmp_path):
    words = (*WORDS, "--epochs", "80", "--trials", "1", "--storage", server.url, "--study", "back")
    homes = [tmp_path / "one", tmp_path / "two"]
    first = forge.start(*words, env={"LABBOOK_HOME": str(homes[0])})
    wait_for(lambda: server.trains("back"), first)
    workers = children(first.pid)
    for pid in (first.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    assert server.move_elsewhere(server.study("back")) == 1
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(homes[1])}, timeout=240)
    assert status == 0, text
    (left,) = runs_of(homes[0])
    assert left.status == "RUNNING"
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(homes[0])})
    assert status == 0, text
    assert left.status == "KILLED"
    assert len(counted(server, "back")) == 1


@pytest.mark.slow
def test_a_lost_server_ends_the_search_in_one_line_and_the_same_command_goes_on(server, forge, tmp_path):
    words = (*WORDS, "--epochs", "3", "--trials", "4", "--storage", server.url, "--study", "lost")
    process = forge.start(*words, env={"LABBOOK_HOME": str(tmp_path)})
    wait_for(lambda: optuna.trial.TrialState.COMPLETE in server.states("lost"), process)
    server.stop()
    try:
        assert process.wait(120) == 1, process.text
    finally:
        server.start()
    assert "is unreachable" in process.text
    assert "to continue, run the same command" in process.text
    assert "Traceback" not in process.text
    again = forge.start(*words, env={"LABBOOK_HOME": str(tmp_path)})
    while not again.ended:  # a trial that was just asked for is nobody's: it is done again when it gave no sign of life
        if "waiting for trials" in again.text:
            server.age()
        time.sleep(0.5)
    assert again.wait() == 0, again.text
    assert len(counted(server, "lost")) == 4, [(t.state, t.user_attrs) for t in server.study("lost").trials]
    assert {run.status for run in runs_of(tmp_path)} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_dead_machines_trial_is_taken_over_by_the_clock_alone(server, forge, tmp_path):
    """Nothing is moved by hand but the name of the owner: the real time without a sign of life passes."""
    words = (*WORDS, "--epochs", "80", "--trials", "2", "--storage", server.url, "--study", "dead")
    homes = [tmp_path / "one", tmp_path / "two"]
    dead = forge.start(*words, env={"LABBOOK_HOME": str(homes[0])})
    wait_for(lambda: server.trains("dead"), dead)
    for pid in (dead.pid, *children(dead.pid)):
        os.kill(pid, signal.SIGKILL)
    dead.wait()
    study = server.study("dead")
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        attached(open_storage(server.url, server.folder), study, trial.number).set_user_attr(OWNER, "elsewhere:1")
    began = time.monotonic()
    status, text = forge.run(*words, env={"LABBOOK_HOME": str(homes[1])}, timeout=500)
    assert status == 0, text
    assert "waiting for trials of other machines: 0" in text
    assert time.monotonic() - began > GRACE - 30
    assert len(counted(server, "dead")) == 2


def runs_of(home):
    """Trials' runs under a home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        return list(runs_by_trial(parent_of(home)).values())

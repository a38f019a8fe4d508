"""Plots of a study."""

import optuna
import pytest

from core.record.journal import Journal
from core.search.objectives import Goals
from core.search.plots import PAGE, log_plots


@pytest.mark.filterwarnings("ignore:Fixed parameter")
def test_a_declaration_outside_of_its_space_and_trials_without_an_end_are_plotted(tmp_path):
    study = optuna.create_study(study_name="s", direction="maximize")
    study.enqueue_trial({"lr": 5.0})
    for value in (0.5, 0.7):
        trial = study.ask()
        trial.suggest_float("lr", 0.0, 1.0)
        study.tell(trial, value)
    study.ask().suggest_float("lr", 0.0, 1.0)
    study.enqueue_trial({"lr": 0.5})
    log_plots(Journal(tmp_path), study, Goals(("val/accuracy",), "best"))
    page = (tmp_path / "artifacts" / PAGE).read_text()
    assert "2 complete, 1 running, 1 waiting" in page
    assert "<td>5</td>" in page

"""Plots of a study: PNG files, and one interactive HTML page."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
from markupsafe import Markup

from core.common import html
from core.common.files import write_atomic
from core.common.terminal import tell
from core.record.journal import Journal
from core.search.objectives import Goals, number
from core.search.repeats import name_of

PAGE = "study/study.html"
MOST_TRIALS = 200  # of the table
WIDE = 1000  # pixels; a wider plot, of many hyperparameters, is scrolled
_PAGE_ONLY = ("parallel_coordinate",)  # its labels overlap in a picture; the page shows them on hover
_SINGLE = {
    "history": "optimization_history",
    "importances": "param_importances",
    "parallel_coordinates": "parallel_coordinate",
    "slices": "slice",
    "intermediate_values": "intermediate_values",
}


def log_plots(journal: Journal, study: optuna.Study, goals: Goals) -> None:
    """Save the plots as artifacts of the study's run. Plots that need more trials are skipped."""
    study = _copied(study)
    done = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(done) < 2:
        return
    wanted = _SINGLE if len(goals.names) == 1 else {"pareto_front": "pareto_front"}
    arguments = {"target_name": goals.names[0]} if len(goals.names) == 1 else {"target_names": list(goals.names)}
    figures: list[Markup] = []
    for name, kind in wanted.items():
        given = {} if kind == "intermediate_values" else arguments
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if kind not in _PAGE_ONLY:
                    _picture(journal, f"study/{name}.png", kind, study, given)
                figure = _drawing("optuna.visualization", kind)(study, **given)
                if (figure.layout.width or 0) <= WIDE:
                    figure.update_layout(width=None, autosize=True)  # as wide as the window
                options = {"full_html": False, "include_plotlyjs": not figures, "config": {"responsive": True}}
                figures.append(Markup(figure.to_html(**options)))  # the script once
        except Exception as error:  # no plot may fail a study
            if isinstance(error, OSError) and error.errno:
                raise
            tell(
                f"skipped the plot of {name.replace('_', ' ')}: {str(error).splitlines()[0] if str(error) else error!r}"
            )
    if figures:
        page = html.render("search/study.html.jinja", title=study.study_name, figures=figures, **_trials(study, goals))
        write_atomic(journal.artifact(PAGE), page)
        journal.log_artifact(PAGE)


def _copied(study: optuna.Study) -> optuna.Study:
    """The study in memory: plots read all trials many times, for which a shared database would answer each time."""
    storage = optuna.storages.InMemoryStorage()
    copy = optuna.create_study(storage=storage, study_name=study.study_name, directions=study.directions)
    if study.metric_names:
        copy.set_metric_names(study.metric_names)
    for trial in study.get_trials(deepcopy=False):  # Study.add_trial refuses a declaration outside of its space
        storage.create_new_trial(storage.get_study_id_from_name(study.study_name), template_trial=trial)
    return copy


def _trials(study: optuna.Study, goals: Goals) -> dict[str, Any]:
    """The table of trials, the best first, and those without a value last."""
    trials = study.get_trials(deepcopy=False)
    upward = -1 if goals.larger_is_better(goals.names[0]) else 1

    def place(trial: optuna.trial.FrozenTrial) -> tuple[bool, float, int]:
        done = trial.state == optuna.trial.TrialState.COMPLETE
        return not done, upward * trial.values[0] if done else 0.0, trial.number

    best = sorted(trials, key=place)[:MOST_TRIALS]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    states = Counter(trial.state.name.lower() for trial in trials)
    rows = [
        (
            name_of(trial).removeprefix("trial "),
            *(number(goal, value) for goal, value in zip(goals.names, trial.values or (), strict=False)),
            *("" for _ in goals.names[len(trial.values or ()) :]),
            *(_text(trial.params.get(name, "")) for name in names),
            f"{trial.duration.total_seconds():,.1f} s" if trial.duration else "",
            trial.state.name.lower(),
        )
        for trial in best
    ]
    return {
        "headings": ("trial", *goals.names, *names, "time", "state"),
        "rows": rows,
        "total": len(trials),
        "counts": ", ".join(f"{count} {state}" for state, count in states.items()),
    }


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _drawing(module: str, kind: str) -> Callable[..., Any]:
    import importlib

    plot: Callable[..., Any] = getattr(importlib.import_module(module), f"plot_{kind}")
    return plot


def _picture(journal: Journal, name: str, kind: str, study: optuna.Study, given: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    try:
        _drawing("optuna.visualization.matplotlib", kind)(study, **given)
        figure = plt.gcf()
        figure.set_size_inches(10, 6)
        figure.savefig(journal.artifact(name), dpi=100, bbox_inches="tight")
    finally:
        plt.close("all")
    journal.log_artifact(name)

"""Plots of a study: PNG files, and one interactive HTML page."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import optuna
from markupsafe import Markup

from core.common import html
from core.common.files import write_atomic
from core.common.terminal import tell
from core.record.journal import Journal
from core.search.objectives import Goals

PAGE = "study/study.html"
_SINGLE = {
    "history": "optimization_history",
    "importances": "param_importances",
    "parallel_coordinates": "parallel_coordinate",
    "slices": "slice",
    "intermediate_values": "intermediate_values",
}


def log_plots(journal: Journal, study: optuna.Study, goals: Goals) -> None:
    """Save the plots as artifacts of the study's run. Plots that need more trials are skipped."""
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
                _picture(journal, f"study/{name}.png", kind, study, given)
                figure = _drawing("optuna.visualization", kind)(study, **given)
                figures.append(Markup(figure.to_html(full_html=False, include_plotlyjs=not figures)))  # the script once
        except Exception as error:  # no plot may fail a study
            if isinstance(error, OSError) and error.errno:
                raise
            tell(
                f"skipped the plot of {name.replace('_', ' ')}: {str(error).splitlines()[0] if str(error) else error!r}"
            )
    if figures:
        page = html.render("search/study.html.jinja", title=study.study_name, figures=figures)
        write_atomic(journal.artifact(PAGE), page)
        journal.log_artifact(PAGE)


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

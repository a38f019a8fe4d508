"""Messages at the end of a training or a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.common.ranks import ranks_here
from core.common.statistics import mean_and_interval
from core.common.terminal import tell
from core.compare.table import in_percent
from core.record.run import REPORT
from core.runs.seeds import Seeds
from core.runs.trained import Run
from core.search import space
from core.search.objectives import summary
from core.search.search import SearchResult
from core.tracking.api import mirror_status, public_uri, run_url, store_problem, tracking_uri
from core.tracking.destinations import DESTINATIONS


def report_result(result: Run | Seeds) -> int:
    """Print the result of a training. Returns the exit status."""
    if ranks_here().rank:
        return 0
    if isinstance(result, Run):
        report(result)
        return 0
    (report_folds if "folds" in result.parent.record else report_seeds)(result)
    return 1 if result.failed else 0


def report(run: Run) -> None:
    """Print the result of one run and the command that shows it in MLflow."""
    metrics, history = run.metrics, run.history["test/accuracy"]
    n = run.record["data"]["test"]
    accuracy, loss = metrics["test/accuracy"], metrics["test/loss"]
    each = "".join(f", {task} {metrics[f'test/accuracy_{task}']:.2%}" for task, _ in run.tasks)
    labels = f", mean average precision {metrics['test/map']:.2%}" if "test/map" in metrics else ""
    weights = f"with the weights of epoch {max(history)}"
    tell(f"test accuracy {accuracy:.2%} (n = {n:,}){each}{labels}, loss {loss:.4f}, {weights}")
    if (page := run.folder / "artifacts" / REPORT).exists():
        tell(f"report: {page}")
    report_location(run)


def report_seeds(seeds: Seeds) -> None:
    """Print the results of several seeds, with their mean, 95 % interval and failures."""
    values = [run.metrics["test/accuracy"] for run in seeds.runs]
    for run, value in zip(seeds.runs, values, strict=True):
        tell(f"seed {run.record['declaration']['seed']}: test accuracy {value:.2%}   {run.id}")
    for seed, error in seeds.failed.items():
        tell(f"seed {seed}: failed: {error}")
    if len(values) > 1:
        mean, std, half = mean_and_interval(values)
        spread = f"mean and 95 % interval of {len(values)} seeds; standard deviation {std:.2%}"
        tell(f"test accuracy {mean:.2%} +- {half:.2%} ({spread})")
    report_location(seeds.parent)


def report_folds(folds: Seeds) -> None:
    """Print the results of all folds, with their mean, corrected 95 % interval and failures."""
    first, metrics = folds.parent.experiment, folds.parent.metrics
    names = list(dict.fromkeys(("val/accuracy", first.monitor)))
    for run in folds.runs:
        fold, values = run.record["declaration"]["fold"], run.kept_metrics
        tell(f"fold {fold['number']}{_repetition(fold)}: {_values(names, values)}   {run.id}")
    for number, error in folds.failed.items():
        tell(f"fold {number}: failed: {error}")
    for name in names if len(folds.runs) > 1 else ():
        spread = f"{_value(name, metrics[f'{name}_ci95'])} (mean and corrected 95 % interval of {len(folds.runs)} folds"
        spread += f"; standard deviation {_value(name, metrics[f'{name}_std'])})"
        tell(f"{name} {_value(name, metrics[name])} +- {spread}")
    if pooled := {f"val/{name}": metrics[f"oof/{name}"] for name in ("accuracy", "map") if f"oof/{name}" in metrics}:
        tell(f"out of fold, all images: {_values(list(pooled), pooled).replace('val/', '')}")
    report_location(folds.parent)


def _repetition(fold: Mapping[str, int]) -> str:
    return f" of repetition {fold['repeat']}" if fold["repeat"] > 1 else ""


def _values(names: Sequence[str], values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_value(name, values[name])}" for name in names)


def _value(name: str, value: float) -> str:
    return f"{value:.2%}" if in_percent(name) else f"{value:.4f}"


def report_location(run: Run) -> None:
    """Print the folder of a run and the command that shows it in MLflow."""
    tell(f"record: {run.folder}")
    for to in (DESTINATIONS[name] for name in run.record["launch"].get("also", ())):
        if missing := mirror_status(run.folder, to).why:
            tell(f"{to.title} does not have the complete run yet ({missing}); to send the rest: {to.sync}")
        tell(f"{to.title}: {to.look()}")
    if not run.record["launch"]["mlflow"]:
        tell("not in MLflow (--mlflow false); to send it: labbook sync")
        return
    if missing := mirror_status(run.folder).why:
        tell(
            f"MLflow does not have the complete run yet ({missing}); the record on disk is complete; "
            "to send the rest: labbook sync"
        )
    if store_problem():  # no page shows the run
        return
    if tracking_uri().startswith("http"):
        tell(f"view:   {public_uri()}/{run_url(run.folder) or ''}")
    else:
        tell("view:   labbook ui")


def report_search(found: SearchResult, command: str) -> None:
    """Print the result of a search."""
    for line in found.lines:
        tell(line)
    if not found.best:
        tell("no trial finished")
    else:
        number = found.confirmed[0].trial if found.confirmed else found.best[0].number
        several = len(found.goals.names) > 1  # then every trial of the Pareto front is printed
        for top in found.best if several else [trial for trial in found.best if trial.number == number]:
            values = [found.verdict.mean] if found.verdict else top.values
            tell(f"best: trial {top.number}, {summary(values, found.goals)}")
            for name, value in sorted(top.params.items()):
                tell(f"  {name} = {space.label(value)}")
        tell(f"to train it: {command} --from {found.parent.id}")
    report_location(found.parent)

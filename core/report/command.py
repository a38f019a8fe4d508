"""labbook report RUN: the page that looks into a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.journal import Journal
from core.launch import Launch
from core.lock import locked
from core.part import Mistakes
from core.record import CONFUSION, REPORT, Run, declared, holds_others, load
from core.terminal import tell
from core.words import Words

ENOUGH = 24 * 3600.0  # s: asked for by hand, nothing is left out


def main(words: Sequence[str]) -> int:
    """Exit status 0. Raises Mistakes."""
    parser = Words("report", __doc__)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--root", type=Path, help="where the data are now, if not where they were")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes the best there is")
    given = parser.parse_args(list(words))
    run = load(given.run)
    _refuse(run)
    launch = Launch.read(run.record["launch"])
    launch = launch.but({"device": given.device, "root": given.root or launch.root})
    tell(str(report(run, launch)))
    if launch.mlflow:
        from core.tracking import sync

        for standing in sync([run.folder], patience=10.0):
            tell(f"MLflow lacks it ({standing.why}); labbook sync sends it" if standing.why else "in MLflow, too")
    return 0


def report(run: Run, launch: Launch) -> Path:
    """Make the page of a finished run, anew where it has one; its path. Raises Mistakes where that cannot be."""
    import torch

    from core.augment import normaliser
    from core.build import autocast_of, device_of, studied
    from core.report.answers import Network
    from core.report.making import make
    from core.run import load_splits

    data = run.record["data"]
    splits = load_splits(run.experiment, launch)
    if splits.digest != data["digest"]:
        raise Mistakes([f"{run.id}: the data have changed since it was trained ({splits.source})"])
    device: torch.device = device_of(launch)
    experiment = run.experiment
    autocast, _ = autocast_of(experiment.precision, device)
    model = run.model.to(device).to(memory_format=torch.channels_last)
    network = Network(model, normaliser(data["mean"], data["std"], device), device, autocast, experiment.tta)
    with locked(run.folder):
        journal = Journal(run.folder)
        make(journal, run, network, studied(experiment, splits), ENOUGH)
        path = journal.artifact(REPORT)
        journal.close(None)
    return path


def _refuse(run: Run) -> None:
    declared(run.record)
    if holds_others(run.record):
        raise Mistakes([f"{run.id} holds other runs: labbook compare {run.id} sets them side by side"])
    if run.status != "FINISHED":
        raise Mistakes([f"{run.id} is {run.status}: a report is of a finished run"])
    if run.several:
        raise Mistakes([f"{run.id}: a report is of one class for each image, and these have several labels"])
    if not (run.folder / "artifacts" / CONFUSION).exists():
        raise Mistakes([f"{run.id} was not tested, as no trial of a search is: train it with --from {run.id}"])

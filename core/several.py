"""Several labels at a time: what of a declaration takes them."""

from __future__ import annotations

from core.experiment import Experiment
from core.part import Mistakes


def refuse(experiment: Experiment) -> None:
    """Raises Mistakes with every declared part that needs one class for each image."""
    unfit = [(name, type(part)) for name, part in experiment.parts() if not getattr(part, "several", True)]
    if unfit:
        raise Mistakes(
            f"{name}: {kind.__name__} needs one class for each image, and these images have several labels; {advice}"
            for name, kind in unfit
            for advice in [getattr(kind, "instead", "leave it out")]
        )

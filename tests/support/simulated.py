"""Runs that were never trained: rows of a comparison with given results."""

from core.compare.runs import Row

METRIC = "val/accuracy"


def rows(values, images=0):
    """A finished run for each value [settings, seeds]; the first setting is the base. images: of which the values are
    accuracies; 0: that is not known."""
    return [
        Row(
            id=f"sim-20260101-{100 * setting + seed:06d}-0000",
            experiment="sim",
            variant=f"v{setting}" if setting else None,
            seed=str(seed),
            fields={"optimizer.lr": str(setting)},
            metrics={METRIC: float(value)},
            data="d1",
            parameters=1000,
            whole=True,
            images={"val": images} if images else {},
        )
        for setting, of_seeds in enumerate(values)
        for seed, value in enumerate(of_seeds)
    ]

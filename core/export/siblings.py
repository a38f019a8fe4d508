"""The other seeds of the setting of a run."""

from __future__ import annotations

from core.common.statistics import mean_and_interval
from core.compare.runs import FINISHED, FOLD, rows, rows_of, with_missing_fields
from core.record.run import RecordedRun


def over_seeds(run: RecordedRun, metric: str) -> tuple[float, float, int]:
    """(mean, half width of the 95 % interval by Student's t, number of seeds) of a metric over the finished runs on
    record that differ from a run in the seed alone; of a seed that was run again, the latest counts. The half width is
    NaN for one seed. A run on a fold stands alone, since a fold is no repetition of another one.
    """
    (own,), _ = rows([run.id])
    others = [row for row in rows_of(run.record["experiment"])[0] if row.id != own.id and row.status == FINISHED]
    own, *others = with_missing_fields([own, *others])
    values = {}
    if not any(name.startswith(f"{FOLD}.") for name in own.fields):
        alike = (own.fields, own.data, own.whole)
        same = [row for row in others if (row.fields, row.data, row.whole) == alike and metric in row.metrics]
        values = {row.seed: row.metrics[metric] for row in same}
    values[own.seed] = own.metrics[metric]
    mean, _, half = mean_and_interval(list(values.values()))
    return mean, half, len(values)

"""Trains a declaration in float64 whole, then divided among processes, and prints the largest difference of a metric.

python -m tests.support.divided fsdp, in each of several processes
"""

import sys

from core.common.ranks import ALONE
from core.launch import Launch
from core.optimizers.averaging import Ema
from core.training import distributed
from core.training.assemble import prepare
from core.training.loop import fit
from tests.support.doubled import EXPERIMENT

# in evaluation, the second process has no share of the last batch
SHORT = EXPERIMENT.but({"limit": 129, "ema": Ema(decay=0.9)})


def metrics(kind, ranks):
    """Every metric of every step and epoch."""
    launch = Launch(device="cpu", threads=1, log_every=1, eval_batch_size=4, parallel=kind, microbatches=2)
    parts = prepare(SHORT, launch, ranks)
    events = list(fit(parts.setup, parts.state, parts.train, parts.val))
    found = {(event.step, name): value for event in events for name, value in event.metrics.items()}
    return {key: value for key, value in found.items() if key[1] != "images_per_second"}


def main(kind: str) -> None:
    alone = metrics("ddp", ALONE) if kind == "pipeline" else None
    with distributed.joined() as ranks:
        whole = alone or metrics("ddp", ranks)
        divided = metrics(kind, ranks)
    assert whole.keys() == divided.keys()
    print(len(whole), max(abs(divided[key] / whole[key] - 1) if whole[key] else abs(divided[key]) for key in whole))


if __name__ == "__main__":
    main(sys.argv[1])

"""A trainer as MLflow's mirror knows it, without the training: `python -m tests.support.journal_writer FOLDER STEPS`.

It writes the run's journal, which it may have begun in an earlier life, and prints the process id of its mirror.
"""

import os
import random
import sys
import time
from pathlib import Path

from core.record import journal
from core.record.journal import Journal
from core.tracking.api import Mirror

AGAIN = 25  # steps that a resumed trainer runs again at most


def main(folder: Path, steps: int) -> int:
    """Exit status 0: all of it is in MLflow."""
    pause = max(1, steps // 50)  # between pauses: some five seconds in which to be killed
    luck = random.Random()  # when it pauses follows from no seed: the scheduler's part in this is larger
    done = max(journal.history(folder).get("loss", {0: -1}))
    log = Journal(folder)
    log.write("run", id=folder.name, experiment="tracking", name="storm", parent=None, pid=os.getpid())
    mirror = Mirror()
    mirror.follow(folder)
    assert mirror._process is not None
    print(mirror._process.pid, flush=True)
    for step in range(max(0, done - luck.randrange(AGAIN)), steps):
        log.metrics(step, {"loss": 1 / (step + 1), "norm": (step * 7919 % 1000) / 7})
        if step % pause == 0:
            log.metrics(step // pause, {"val/loss": step / 3})
            log.write("tags", values={"done": str(step)})
            time.sleep(luck.uniform(0, 0.2))
    log.close("FINISHED")
    return 0 if mirror.finish(60) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))

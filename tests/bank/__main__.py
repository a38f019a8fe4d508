"""Train the bank, or what is missing of it.

    python -m tests.bank [--out DIR] [--seeds 16]
    python -m tests.bank [--out DIR] --to-smac FILE.npz

The first command continues where an earlier one was stopped. The second writes what tests/bank/smac_reference.py reads.
"""

import argparse
import time
from pathlib import Path

import torch

from tests.bank.declared import COUNT, SEEDS, declarations, digest
from tests.bank.replay import write_for_smac
from tests.bank.trained import fill, folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bank", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the bank; none: mlruns/bank in the home folder")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds of each declaration")
    parser.add_argument("--to-smac", type=Path, help="write the scores and the space to this file and train nothing")
    given = parser.parse_args()
    if given.to_smac:
        write_for_smac(given.out or folder(), given.to_smac)
        return
    torch.set_num_threads(1)
    experiments = declarations()
    began, runs = time.process_time(), fill(given.out or folder(), experiments, given.seeds, digest(experiments))
    for done, (seed, number) in enumerate(runs, 1):
        if number == COUNT - 1:
            print(f"seed {seed}: {(time.process_time() - began) / done:.2f} s of a core for a run", flush=True)


if __name__ == "__main__":
    main()

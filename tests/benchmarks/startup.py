"""Time until --help is there, against `python -c "import torch"`. To reach: at most 1.3x.

python -m tests.benchmarks.startup
"""

import subprocess
import sys
import time

from tests.benchmarks.common import in_turn, show

ROUNDS = 7


def timed(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    figures = in_turn(
        {
            "import torch": lambda: timed("-c", "import torch"),
            "digits_cnn --help": lambda: timed("-m", "experiments.digits_cnn", "--help"),
            "cifar_resnet --help": lambda: timed("-m", "experiments.cifar_resnet", "--help"),
        },
        ROUNDS,
    )
    show("a whole process", figures, "import torch", "s")


if __name__ == "__main__":
    main()

"""A process of its own that reads a folder of images slowly, so that it can be killed, or met by another one.

`python -m tests.support.slow_reading ROOT SLOW BATCH DATA EXPRESSION ...` is that process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.support.forge import Forge, Process
from tests.support.samples import ROOT


def slow_reading(forge: Forge, root: Path, slow: float, declared: str, *shown: str, batch_images: int = 0) -> Process:
    """Start the process. It takes `slow` seconds for each image, and prints how many it decoded, the digest, and the
    values of the expressions `shown`. declared: an expression of the data set.  batch_images: images in a batch that
    is decoded at once, if not the usual number."""
    words = (str(root), str(slow), str(batch_images), declared, *shown)
    return forge.start("tests.support.slow_reading", *words, cwd=ROOT)


def found(process: Process, timeout: float = 60) -> list[str]:
    """What it prints at its end, which must be a good one: the count, the digest, the values."""
    assert process.wait(timeout) == 0, process.text
    return process.text.splitlines()[-1].split()


def main(root: str, slow: str, batch_images: str, declared: str, *shown: str) -> None:
    from data import ImageFolder
    from data.reading import ingest

    decoded, genuine = [], ingest.decoded

    def slowly(*arguments):  # type: ignore[no-untyped-def]
        time.sleep(float(slow))
        decoded.append(1)
        return genuine(*arguments)

    ingest.decoded = slowly
    ingest._BATCH_IMAGES = int(batch_images) or ingest._BATCH_IMAGES
    splits = eval(declared, {"ImageFolder": ImageFolder}).load(Path(root))
    print(len(decoded), splits.digest, *(eval(expression, {"splits": splits}) for expression in shown))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A process of its own that reads a folder of images slowly, so that it can be killed, or met by another one."""

import subprocess
import sys

from tests.support.samples import ROOT

SCRIPT = """
import sys, time
from pathlib import Path
from data import ImageFolder
from data.reading import ingest
root, slow, decoded = Path(sys.argv[1]), float(sys.argv[2]), []
genuine = ingest.decoded
def slowly(*arguments):
    time.sleep(slow)
    decoded.append(1)
    return genuine(*arguments)
ingest.decoded = slowly
"""


def slow_reading(root, slow, declared, *printed, batch_images=None):
    """Start the process. It takes `slow` seconds for each image, and prints how many it decoded, the digest, and the
    values of the expressions `printed`. declared: an expression of the data set.  batch_images: images in a batch that
    is decoded at once, if not the usual number."""
    lines = [f"ingest._BATCH_IMAGES = {batch_images}"] if batch_images else []
    lines += [f"splits = {declared}.load(root)", f"print({', '.join(['len(decoded)', 'splits.digest', *printed])})"]
    command = [sys.executable, "-c", SCRIPT + "\n".join(lines), str(root), str(slow)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

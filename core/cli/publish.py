"""labbook publish RUN DIR: a folder in the layout of the Hugging Face hub, which timm loads if it knows the network.

The folder has a model card (README.md) with the test metrics, their intervals and n, the weights (model.safetensors),
config.json for timm.create_model("local-dir:DIR") or, for a network that timm does not have, model.pt2 and predict.py,
the answers, and the record without secrets and without the paths of this machine. Nothing is uploaded: the last line
is the command of the hub that does it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from core.catalogue import import_data
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import complain, tell
from core.runs.trained import load


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("publish", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("dir", metavar="DIR", type=Path, help="folder to write; it must not exist, or be empty")
    given = parser.parse_args(list(words))
    run = load(given.run)
    from core.export.export import refuse
    from core.export.publish import CARD, publish

    refuse(run)
    try:
        found = publish(run, given.dir, import_data("data.predict.conversion").facts(run))
    except OSError as error:
        place = given.dir if error.filename2 else error.filename or given.dir  # of a copy, the first is what is read
        said = f"{place}: {error.strerror}" if error.strerror else str(error)
        raise UserError([f"{said}; nothing was written"]) from None
    if not any(name.startswith("test/") for name in run.metrics):
        complain(f"{run.id} was not tested: its card has no results")
    for what, why in found.left_out.items():
        complain(f"left out: {what}: {why}")
    if found.groups:
        complain("the answers name the groups of the images, such as patients: look at them before you upload")
    tell(f"written to {found.folder}")
    if found.reason:
        tell(f"timm does not load it ({found.reason}); its predict.py needs torch, numpy and Pillow")
    else:
        tell(f'timm.create_model("local-dir:{given.dir}", pretrained=True) loads it, with the logits of the run')
    tell(f"the license is for you to fill in: the first lines of {found.folder / CARD}")
    tell(f"to upload it: hf upload USER/{found.folder.name} {shlex.quote(str(given.dir))}")
    return 0

"""What tests share; README.md in this folder says which file is for what.

Importing it makes experiments/ in this folder known, here and in every process that is started from here.
"""

import os
from pathlib import Path

os.environ["LABBOOK_EXPERIMENTS"] = str(Path(__file__).parent / "experiments")

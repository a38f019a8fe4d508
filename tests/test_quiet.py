"""No command of the README shows a warning that whoever typed it can do nothing about."""

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from core.augment import RandAugment, RandomResizedCrop, TrivialAugment, per_image
from core.augment.pipeline import ImageFunction
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import feed
from core.runs.trained import load
from tests.support.forge import Cold

ROOT = Path(__file__).parent.parent
WARNING = re.compile(r"Warning\b|Triggered internally|^\[?W\d{4} ", re.MULTILINE)
TINY = ["--limit", "200", "--threads", "1"]
CHEAP = (
    "experiments.digits_cnn --augment RandAugment,RandomErasing,CutMix --workers 2 --epochs 1 --mlflow false",
    "experiments.digits_cnn search --trials 1 --epochs 1 --mlflow false",
    "core compare digits_cnn",
    "core report RUN",
)
ALONE = re.compile(r"python -m experiments\.digits_cnn\b|labbook (report|rerun|register|sync|list|cache)\b")
ELSEWHERE = re.compile(
    r"postgresql|--from\b|--worktree| resume\b"
)  # a server, a finished study, git, an interrupted run


@pytest.fixture
def always():
    """Torch repeats what it says once in a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_warn_always(before)


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    made = Images(pixels, np.arange(12), np.arange(12) % 3)
    for array in (made.pixels, made.rows, made.targets):
        array.flags.writeable = False
    return made


class Unwritable:
    """Pixels that are decoded when asked for, into memory that nobody may write to."""

    shape = (12, 16, 16, 3)

    def __len__(self):
        return 12

    def __getitem__(self, rows):
        size = 1 if isinstance(rows, int) else len(rows)
        made = np.frombuffer(bytes(size * 768), np.uint8).reshape(size, 16, 16, 3)
        return made[0] if isinstance(rows, int) else made


STEPS = {
    "none": None,
    "rand_augment": per_image((RandAugment(),)),
    "trivial_augment": per_image((TrivialAugment(),)),
    "crop": per_image((RandomResizedCrop(),)),
    "mirrored": ImageFunction(None, lambda image, key: image[:, ::-1]),
    "unwritable": ImageFunction(None, lambda image, key: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)),
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("resident", [True, False])
def test_images_that_cannot_be_written_to_become_tensors_in_silence(images, steps, resident, always):
    (batch,) = feed(Plan(12, 12), images, torch.device("cpu"), steps, workers=0, resident=resident).epoch(0)
    assert batch.images.shape == (12, 16, 16, 3)


def test_pixels_that_cannot_be_written_to_become_tensors_in_silence(images, always):
    given = Images(Unwritable(), images.rows, images.targets)
    for steps in (None, per_image((TrivialAugment(),))):
        (batch,) = feed(Plan(12, 12), given, torch.device("cpu"), steps, workers=0).epoch(0)
        assert not batch.images.any() or steps


def run_of(home):
    """A short training as it is typed, imports and all: (the run's id, what was printed)."""
    cold = Cold()
    process = cold.start("experiments.digits_cnn", "--epochs", "1", "--mlflow", "false", *TINY)
    assert process.wait() == 0, process.text
    shown = process.text
    cold.close()
    (run,) = (home / "mlruns" / "runs").iterdir()
    return run.name, shown


def short(words, run):
    """The words of a command, shortened where it trains."""
    words = [run if word == "RUN" else word for word in words]
    if words[0] != "experiments.digits_cnn" or {"lr_find", "summary", "--help"} & {*words}:
        return words
    return [*words, *(["--epochs", "4"] if "--epochs" not in words else []), *TINY]


@pytest.mark.slow
def test_commands_show_no_warning(forge, home, always):
    run, shown = run_of(home)
    assert not WARNING.search(shown), shown
    assert load(run).predict(np.frombuffer(bytes(128), np.uint8).reshape(2, 8, 8, 1)).shape == (2, 10)
    for command in CHEAP:
        status, shown = forge.run(*short(command.split(), run))
        assert status == 0, shown
        assert not WARNING.search(shown), f"{command}:\n{shown}"


def commands():
    """The commands of the README and the documentation that need nothing but an installation and one run of digits."""
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    blocks = "".join(
        block for page in pages for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.S | re.M)
    )
    lines = (line.split("  #")[0].strip() for line in blocks.splitlines())
    return sorted({line for line in lines if ALONE.match(line) and not ELSEWHERE.search(line)})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_documentation_shows_no_warning(forge, home):
    run, _ = run_of(home)
    assert len(commands()) > 15
    for command in commands():
        words = command.replace("python -m ", "").replace("labbook ", "core ")
        status, shown = forge.run(*short(shlex.split(words), run), timeout=300)
        assert status == 0, f"{command}:\n{shown}"
        assert not WARNING.search(shown), f"{command}:\n{shown}"

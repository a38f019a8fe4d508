"""Every split is read as the launch says: by so many workers, for so long, resident or not."""

import pytest
from torch.utils.data import get_worker_info

from core.launch import Launch
from core.loading import loader
from core.loading.loader import Fetch
from core.runs.train import train
from data import ImageFolder, WebShards
from experiments.tiny import EXPERIMENT
from tests.support.samples import encoded, noise
from tests.support.shards import samples, shard

CLASSES = tuple("abcdef")  # enough for val/top5, a metric that is rehearsed
COUNTS = {"train": 24, "val": 12, "test": 18, "rehearsal": 1}


def folder(root):
    for split in ("train", "val", "test"):
        for number in range(COUNTS[split]):
            place = root / split / CLASSES[number % 6] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(noise(len(split) * 100 + number, 20, 26)))
    return root


def shards(root):
    for place, split in enumerate(("train", "val", "test")):
        shard(root / f"{split}.tar", samples(100 * place, COUNTS[split], CLASSES))
    return root


KINDS = {
    "map": (folder, ImageFolder(size=16)),
    "files": (folder, ImageFolder(size=16, cached=False)),
    "stream": (shards, WebShards(size=16)),
}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains on a kind of data; tells the run, the numbers of workers that read each split, and their time limits."""
    log, limits = tmp_path / "read.txt", []
    read, watched = Fetch.__getitem__, loader.Watched

    def noted(self, request):
        with log.open("a") as stream:  # of a loader's process, too
            stream.write(f"{len(self.images)} {info.num_workers if (info := get_worker_info()) else 0}\n")
        return read(self, request)

    monkeypatch.setattr(Fetch, "__getitem__", noted)
    monkeypatch.setattr(loader, "Watched", lambda loader, limit: limits.append(limit) or watched(loader, limit))

    def run(kind, **launch):
        make, data = KINDS[kind]
        root = tmp_path / kind
        root.exists() or make(root)
        log.write_text("")
        limits.clear()
        experiment = EXPERIMENT.but({"data": data, "epochs": 2, "batch_size": 8, "monitor": "val/top5", "augment": ()})
        done = train(experiment, Launch(root=root, mlflow=False, threads=1, **launch))
        lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
        return done, {split: {n for count, n in lines if count == COUNTS[split]} for split in COUNTS}, list(limits)

    return run


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        ({}, "images in memory"),
        ({"resident": False}, "images read by this process"),
        ({"workers": 1, "prefetch": 3}, "images read by 1 worker, 3 batches ahead"),
    ],
    ids=["rule", "process", "workers"],
)
def test_the_first_line_tells_how_images_are_read(trained, capfd, launch, told):
    trained("map", **launch, eval_batch_size=5)
    (line,) = [line for line in "".join(capfd.readouterr()).splitlines() if "training and" in line]
    assert line.endswith(f"; {told}, channels_last, evaluation in batches of 5")


def test_a_smaller_batch_of_evaluation_measures_the_same(trained):
    whole, parts = (trained("map", eval_batch_size=size)[0].history for size in (None, 5))
    assert whole["val/accuracy"] == parts["val/accuracy"]
    assert whole["val/loss"] == pytest.approx(parts["val/loss"], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_comes_from_the_declared_number_of_workers_and_is_the_same(trained, kind):
    alone, by, limits = trained(kind, workers=0, resident=False)
    assert by == {split: {0} for split in COUNTS}
    assert not limits
    together, by, limits = trained(kind, workers=2, worker_timeout=77)
    # in the trainer's own process, a few training images are tried out and shown before the first step
    assert by == {"train": {0, 2}, "val": {2}, "test": {2}, "rehearsal": {2}}
    assert limits == [77] * 5  # train, val, rehearsal, and val and test with the weights that are kept
    of_time = ("images_per_second", "seconds", "peak_memory_mb", "checkpoint_seconds")
    one, other = ({k: v for k, v in run.history.items() if k not in of_time} for run in (alone, together))
    assert one == other


def test_no_split_stays_on_the_device_where_that_is_refused(trained):
    assert trained("map")[1] == {"train": {0}, "val": set(), "test": set(), "rehearsal": set()}
    assert trained("map", resident=False)[1] == {split: {0} for split in COUNTS}

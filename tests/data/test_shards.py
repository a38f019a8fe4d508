"""Tar shards: the same epoch from any number of workers, from any step, and nothing kept of the images."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.augment import RandomResizedCrop, per_image
from core.common.errors import DataError, ImageLost, Unfinished
from core.loading.batches import Plan
from core.loading.loader import feed
from core.runs.failures import explained
from data import ImageFolder, WebShards, shards
from data.reading import ingest
from data.reading.decode import decode
from tests.support import kills
from tests.support.kills import Moment, Setup
from tests.support.optional import library
from tests.support.processes import COMMON, start, wait_for_step
from tests.support.samples import age, encoded, noise, packed, tree
from tests.support.shards import picture, samples, shard

CPU = torch.device("cpu")


def three(folder, each=8, **rest):
    """Shards of which only the training set is given, uneven ones."""
    for place in range(3):
        shard(folder / f"train-{place}.tar", samples(100 * place, each + 2 * place, **rest))
    return folder


def complaint(root, **fields):
    with pytest.raises(DataError) as caught:
        WebShards(size=16, **fields).load(root)
    return "\n".join(caught.value.lines)


def shown(splits, split):
    part = getattr(splits, split)
    return sorted(zip((splits.classes[t] for t in part.targets), map(bytes, part.pixels[part.rows]), strict=True))


def expected(first, count):
    return [(("cat", "dog")[n % 2], bytes(decode(picture(n), "", 16))) for n in range(first, first + count)]


def test_samples_are_what_was_packed_and_splits_what_the_shards_are_called(tmp_path, home):
    root = tmp_path / "set"
    shard(root / "a-0.tar", samples(0, 6))
    shard(root / "a-1.tar", samples(10, 5))
    shard(root / "val-0.tar", samples(20, 4))
    shard(root / "test-0.tar", [("readme.txt", b"no sample"), *samples(30, 4)])
    splits = WebShards(size=16).load(root)
    assert splits.classes == ("cat", "dog")
    assert shown(splits, "train") == sorted(expected(0, 6) + expected(10, 5))
    assert shown(splits, "val") == sorted(expected(20, 4))
    assert shown(splits, "test") == sorted(expected(30, 4))
    assert [path.name for path in (home / "data/store/cache" / splits.digest).iterdir()] == ["index.json"]
    declared = WebShards(size=16, val="a-1*", test="t*").load(root)
    assert shown(declared, "val") == sorted(expected(10, 5))
    assert declared.digest != splits.digest
    drawn = WebShards(size=16).load(three(tmp_path / "whole"))
    assert (len(drawn.train), len(drawn.val), len(drawn.test)) == (22, 2, 6)


def test_shards_of_the_library_itself_are_read_with_labels_as_numbers_and_in_json(tmp_path):
    webdataset = library("webdataset", package="webdataset")
    root = tmp_path / "set"
    root.mkdir()
    with webdataset.ShardWriter(str(root / "x-%03d.tar"), maxcount=7, verbose=0) as sink:
        for n in range(20):
            sample = {"__key__": f"some.where/{n}", "jpg": noise(n, 20, 26), "left.png": noise(n), "cls": n % 12}
            if n % 2:
                sample = {"__key__": f"b{n}", "webp": encoded(noise(n), "WEBP"), "json": {"kind": n % 12, "box": [1]}}
            sink.write(sample)
    assert len(list(root.iterdir())) == 3
    fractions = {"val_fraction": 0.5, "test_fraction": 0.5}
    samples, others, wrong = shards.survey(root / "x-000.tar", "kind")
    assert not wrong
    assert others == [
        "some.where/0.left.png",
        "some.where/2.left.png",
        "some.where/4.left.png",
        "some.where/6.left.png",
    ]
    assert [sample.label for sample in samples] == ["0", "1", "2", "3", "4", "5", "6"]
    assert "b1: no label: neither .cls nor a field label" in complaint(root, **fractions)
    message = complaint(root, field="kind", **fractions)  # all twelve are classes, in the order of their values
    assert "no image of 8, 9, 10, 11" in message


def test_a_second_start_reads_no_shard_and_a_changed_one_is_noticed(tmp_path, monkeypatch):
    root = three(tmp_path / "set")
    first = WebShards(size=16).load(root)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "survey", lambda *arguments: pytest.fail("listed again"))
        assert WebShards(size=16).load(root).digest == first.digest
    shard(root / "train-1.tar", samples(900, 10))
    age(root / "train-1.tar")
    assert WebShards(size=16).load(root).digest != first.digest


def test_what_is_wrong_is_listed_at_once(tmp_path):
    root = tmp_path / "set"
    shard(
        root / "a.tar",
        [*samples(0, 3), ("lost.png", picture(1)), ("two.jpg", b"1"), ("two.png", b"2"), ("two.cls", b"0")],
    )
    shard(
        root / "b.tar",
        [
            *samples(0, 2),
            *samples(0, 1),
            ("x.cls", b"cat"),
            ("z.png", b""),
            ("z.json", b"[" * 10**5),
            ("y.png", b""),
            ("y.json", b"{"),
        ],
    )
    (root / "c.tar").write_bytes(shard(tmp_path / "whole.tar", samples(0, 4)).read_bytes()[:3000])
    packed(tree(tmp_path / "tree"), tmp_path / "d.tar.gz").rename(root / "d.tar")
    message = complaint(root)
    for line in (
        "a.tar/lost: no label: neither .cls nor a field label",
        "a.tar/two: 2 images; a sample must have exactly one",
        "b.tar/0000: the key occurs twice",
        "b.tar/x: 0 images",
        "b.tar/z: maximum recursion depth",
        "b.tar/y: Expecting property name",
        "c.tar is damaged or incomplete",
        "d.tar is not an uncompressed tar",
    ):
        assert line in message
    first = [("1.png", b"no image"), ("1.cls", b"cat"), ("2.png", picture(2)[:200]), ("2.cls", b"dog")]
    broken = shard(tmp_path / "broken" / "a.tar", [*first, *samples(0, 30)])
    message = complaint(broken.parent)
    assert "2 of 32 images cannot be read" in message
    assert "a.tar/1.png: " in message
    assert "a.tar/2.png: " in message
    left = WebShards(size=16, skip_unreadable=True).load(broken.parent)
    kept = [image for split in ("train", "val", "test") for image in shown(left, split)]
    assert sorted(kept) == sorted(expected(0, 30))  # places belong to the right rows once some are left out
    assert "contains no *.tar" in complaint(tmp_path / "tree")
    assert "no samples for the train split" in complaint(broken.parent, val="*")
    with pytest.raises(ValueError, match="skip_unreadable requires checked"):
        WebShards(skip_unreadable=True, checked=False).check()


def runs_of(order, size, ranks):
    """What comes to each rank in an epoch, int64 [n] each."""
    whole = len(order) // size
    return order[: whole * size].reshape(whole, ranks, size // ranks).swapaxes(0, 1).reshape(ranks, -1)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 40), st.integers(0, 9))
def test_an_epoch_is_a_permutation_that_stays_near_the_sequence_of_its_shards(sizes, ranks, window, epoch):
    shard = np.repeat(np.arange(len(sizes)), sizes)
    size = 2 * ranks
    order = shards._order(shard, window, size, ranks, 5, epoch)
    assert np.array_equal(np.sort(order), np.arange(len(shard)))
    assert np.array_equal(order, shards._order(shard, window, size, ranks, 5, epoch))
    for number in range(len(sizes)):  # it is done with before what lies two windows further begins
        for run in runs_of(order, size, ranks):
            places = np.flatnonzero(shard[run] == number)
            assert not len(places) or places[-1] - places[0] < sizes[number] + 2 * window
    calm = shards._order(shard, 1, size, ranks, 5, epoch)  # nothing is moved: two ranks share a shard at their border
    opened = sum(len(np.unique(shard[run])) for run in runs_of(calm, size, ranks))
    assert opened <= len(sizes) + ranks - 1


def test_epochs_differ_and_an_image_moves_by_less_than_the_window():
    shard = np.repeat(np.arange(6), 50)
    first, second = (shards._order(shard, 20, 4, 1, 0, epoch) for epoch in (0, 1))
    assert [*dict.fromkeys(shard[first].tolist())] != [*dict.fromkeys(shard[second].tolist())]
    place = np.argsort(shards._order(shard, 1, 4, 1, 0, 0))  # a window of 1 moves nothing
    moved = np.abs(place[first] - np.arange(300))
    assert 3 < moved.mean() < 10
    assert moved.max() < 20
    dropped = [set(shards._order(np.zeros(7, int), 1, 4, 1, 0, epoch)[4:].tolist()) for epoch in range(30)]
    assert set.union(*dropped) == set(range(7))  # one shard in its own order: even so, nothing is always left out


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_same_batches_whatever_the_workers_and_a_later_start_reads_nothing_that_came_before(tmp_path, monkeypatch):
    root = three(tmp_path / "set")
    images = WebShards(size=16, window=6).load(root).train
    steps = per_image((RandomResizedCrop(scale=(0.3, 1.0)),))
    plan = Plan(len(images), 4, seed=3, drawn=images.order(4, 1))
    alone, *others = (list(feed(plan, images, CPU, steps, workers).epoch(1)) for workers in (0, 1, 2, 3))
    assert len(alone) == 5
    for other in others:
        for a, b in zip(alone, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    read = []
    content = shards.Shards.content
    monkeypatch.setattr(shards.Shards, "content", lambda self, row: read.append(row) or content(self, row))
    late = list(feed(plan, images, CPU, steps, 0).epoch(1, 3))
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone[3:], late, strict=True))
    assert read == [int(images.rows[place]) for batch in late for place in batch.index]
    shares = [Plan(len(images), 8, 3, rank=rank, ranks=2, drawn=images.order(8, 2)) for rank in range(2)]
    seen = [torch.cat([b.index for b in feed(share, images, CPU, steps, 0).epoch(0)]) for share in shares]
    assert len(set(torch.cat(seen).tolist())) == 16
    keys = torch.cat([batch.keys for batch in alone])
    assert np.array_equal(keys.numpy(), Plan(len(images), 4, 3).keys(1, torch.cat([b.index for b in alone]).numpy()))


def test_unchecked_shards_are_not_decoded_first_and_a_broken_image_ends_the_run(tmp_path, monkeypatch):
    broken = [("9.png", b"no image"), ("9.cls", b"cat")]
    root = tmp_path / "set"
    shard(root / "train.tar", [*samples(0, 29), *broken])
    shard(root / "val.tar", samples(100, 8))
    shard(root / "test.tar", samples(200, 8))
    monkeypatch.setattr(ingest, "build", lambda *arguments: pytest.fail("it decodes"))
    splits = WebShards(size=16, checked=False).load(root)
    assert splits.source == "set: 46 images, not checked"
    assert shown(replace(splits, train=splits.train.take(np.arange(29))), "train") == sorted(expected(0, 29))
    plan = Plan(30, 5, drawn=splits.train.order(5, 1))
    with pytest.raises(ImageLost) as caught:
        list(feed(plan, splits.train, CPU, None, 0).epoch(0))
    message = explained(caught.value, "run", 0)
    assert isinstance(message, Unfinished)
    assert "train.tar/9.png: cannot identify image file (its shard has changed since training started" in str(message)


def words(root):
    crop = '[{"class": "RandomResizedCrop", "scale": [0.5, 1.0]}]'
    return ("--data", "WebShards", "--data.size", "8", "--data.window", "7", "--root", str(root), "--augment", crop,
            "--epochs", "1", "--batch_size", "8", "--stopping", "none")  # fmt: skip


def test_a_killed_run_goes_on_to_the_same_bits_and_says_what_it_skips(forge, tmp_path):
    root = three(tmp_path / "set", each=30)
    whole = kills.undisturbed(forge.start, words(root), tmp_path / "undisturbed")
    setup = Setup(words(root), ("--workers", "1", "--checkpoint_every", "1"))
    home = tmp_path / "killed"
    process = forge.start(*setup.words, env={"LABBOOK_HOME": str(home)})
    kills._wait_for(Moment(step=5), process, home, whole.seconds)
    process.kill()
    process.wait()
    status, output = forge.run(kills.PROGRAM, "resume", env={"LABBOOK_HOME": str(home)})
    assert status == 0, output
    assert "images of epoch 1 that were used before the interruption" in output
    assert not kills.outcome(home).differences(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_kills_change_nothing(seed, forge, tmp_path):
    root = three(tmp_path / "set", each=60)
    luck = random.Random(f"shards {seed}")
    whole = kills.undisturbed(forge.start, words(root), tmp_path / "undisturbed")
    setup = Setup(words(root), kills.launch(luck))
    assert kills.killed(forge.start, setup, tmp_path / "killed", luck, 1 + seed % 3, whole)


@pytest.mark.slow
def test_two_processes_each_with_shards_of_their_own_resume_to_the_same_bits(forge, home, tmp_path):
    asked = (kills.PROGRAM, *words(three(tmp_path / "set", each=60)), "--model.norm", "group", *COMMON)
    for process in start(forge, *asked, LABBOOK_HOME=tmp_path / "undisturbed"):
        assert process.wait() == 0, process.text
    processes = start(forge, *asked, "--checkpoint_every", "1", "--workers", "1")
    wait_for_step(home, 8)
    processes[1].kill()
    for process in processes:
        process.wait()
    first, second = start(forge, kills.PROGRAM, "resume")
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    assert "images of epoch 1 that were used before the interruption" in first.text
    resumed, whole = kills.outcome(home), kills.outcome(tmp_path / "undisturbed")
    assert (resumed.weights, resumed.points) == (whole.weights, whole.points)


def labeled(path):
    return json.dumps({"label": path.parent.name}).encode()


def test_the_same_images_as_from_a_folder(tmp_path):
    folder = tree(tmp_path / "tree", each=6, splits=("train", "val", "test"), size=(20, 26))
    for split in ("train", "val", "test"):
        files = sorted((folder / split).rglob("*.png"))
        content = [(f"{path.parent.name}{path.stem}", path) for path in files]
        shard(tmp_path / "set" / f"{split}.tar", [
            pair for key, path in content
            for pair in ((f"{key}.png", path.read_bytes()), (f"{key}.json", labeled(path)))
        ])  # fmt: skip
    ours, theirs = WebShards(size=16).load(tmp_path / "set"), ImageFolder(size=16).load(folder)
    for split in ("train", "val", "test"):
        assert shown(ours, split) == shown(theirs, split)


def test_shards_named_like_another_split_are_never_trained_on_in_silence(tmp_path):
    root = tmp_path / "set"
    for place, name in enumerate(("Train-0", "Val-0", "TEST-0")):
        shard(root / f"{name}.tar", samples(100 * place, 6 + place))
    splits = WebShards(size=16).load(root)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 7, 8)
    (root / "Val-0.tar").rename(root / "dev-0.tar")
    assert "dev-0.tar looks like the val split; set --data.val" in complaint(root)
    assert len(WebShards(size=16, val="dev*").load(root).val) == 7


def test_every_file_of_a_shard_is_a_sample_or_named_or_an_error(tmp_path, capsys):
    forms = {"tif": "TIFF", "bmp": "BMP", "gif": "GIF", "jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
    files = []
    for number in range(60):
        suffix, form = list(forms.items())[number % len(forms)]
        label = json.dumps({"label": ("cat", "dog")[number % 2]}).encode() if number % 3 else b""
        name = f"{number:03}.v2" if number % 4 < 2 else f"{number:03}"
        files.append((f"{name}.{suffix}", encoded(noise(number, 20, 26), form)))
        files.append((f"{name}.json", label) if label else (f"{name}.cls", ("cat", "dog")[number % 2].encode()))
    rubbish = [
        ("README", b"x"),
        ("notes.txt", b"x"),
        ("index.json", b"{}"),
        ("._001.v2.jpg", b"x"),
        ("000.v2.txt", b"x"),
    ]
    root = tmp_path / "set"
    shard(root / "a.tar", [*files, *rubbish])
    splits = WebShards(size=16).load(root)
    assert sum(len(getattr(splits, split)) for split in ("train", "val", "test")) == 60
    assert splits.source == "set: 60 images, 5 other files left out"
    said = capsys.readouterr().err
    assert "set: 60 samples; 5 other files left out: " in said
    assert all(f"a.tar/{name}" in said for name, _ in rubbish)
    assert WebShards(size=16, checked=False).load(root).source == "set: 60 images, 5 other files left out, not checked"
    names = [sample.name for sample in shards.survey(root / "a.tar", "label")[0]]
    assert names == [name for name, _ in files if not name.endswith((".json", ".cls"))]
    shard(root / "b.tar", [("1.heic", b"x"), ("1.json", b'{"label": "cat"}'), ("2.v1.jpg", b"x"), ("2.cls", b"cat")])
    said = complaint(root)
    assert "b.tar/1: 0 images; a sample must have exactly one (its files are heic, json)" in said
    assert "b.tar/2: 0 images; a sample must have exactly one (its files are cls)" in said

"""Images that are decoded as they come, and what is cut out of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.augment import ColorJitter, HorizontalFlip, RandomResizedCrop, per_image
from core.common.errors import DataError, ImageLost, Unfinished
from core.launch import Launch
from core.loading import normalize
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import Fetch, Host, feed
from core.loading.normalize import mean_and_std
from core.runs.failures import explained
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import load
from data import ImageFolder
from data.reading import ingest
from data.reading.decode import Unreadable, decode, decode_crop
from data.reading.files import Files
from experiments.tiny import EXPERIMENT
from tests.support.golden import GOLDEN
from tests.support.samples import encoded, noise, packed, tree

CPU = torch.device("cpu")


def smooth(seed, height, width):
    """A photograph's kind of image: what JPEG keeps well."""
    coarse = Image.fromarray(noise(seed, 6, 6))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def photographs(folder, each=6, side=60):
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            picture = smooth(100 * place + number, side, side + 12)
            (folder / name / f"{number}.jpg").write_bytes(encoded(picture, "JPEG", quality=92))
    return folder


def test_what_is_decoded_as_it_comes_is_what_the_cache_would_hold(tmp_path, home):
    root = photographs(tmp_path / "pictures")
    once, each = (ImageFolder(size=24, cached=cached).load(root) for cached in (True, False))
    assert isinstance(each.train.pixels, Files)
    for split in ("train", "val", "test"):
        a, b = getattr(once, split), getattr(each, split)
        assert np.array_equal(a.targets, b.targets)
        assert np.array_equal(a.pixels[a.rows], b.pixels[b.rows])
        assert np.array_equal(a.pixels[int(a.rows[0])], b.pixels[int(b.rows[0])])
    assert once.digest != each.digest  # what trains on the whole file has seen other data
    kept = sorted(path.name for path in (home / "data/store/cache" / each.digest).iterdir())
    assert kept == ["index.json"]


def test_a_second_start_looks_through_nothing_and_another_folder_around_it_is_no_matter(tmp_path, monkeypatch):
    root = photographs(tmp_path / "outer" / "set")
    folder = ImageFolder(size=24, cached=False)
    first = folder.load(root)
    monkeypatch.setattr(ingest, "decoded", lambda *arguments: pytest.fail("decoded again"))
    again = folder.load(root)
    assert again.digest == first.digest
    assert np.array_equal(again.train.pixels[again.train.rows], first.train.pixels[first.train.rows])
    monkeypatch.undo()
    around = folder.load(tmp_path / "outer")  # the same images below a folder that holds them all
    assert around.digest == first.digest
    assert np.array_equal(around.train.pixels[around.train.rows], first.train.pixels[first.train.rows])


def test_broken_files_are_listed_before_step_one(tmp_path):
    root = photographs(tmp_path / "pictures")
    (root / "cat" / "0.jpg").write_text("no image")
    (root / "dog" / "3.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        ImageFolder(size=24, cached=False).load(root)
    assert "cat/0.jpg" in str(caught.value)
    assert "dog/3.jpg" in str(caught.value)


def test_an_archive_is_to_be_unpacked(tmp_path):
    root = packed(tree(tmp_path / "source"), tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar is not a folder, which --data\.cached false requires; unpack it"):
        ImageFolder(size=24, cached=False).load(root)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 900), st.integers(1, 900))
def test_boxes_lie_within_and_have_the_area_and_the_aspect_declared(key, height, width):
    step = RandomResizedCrop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    top, left, tall, wide = step.box(key, height, width)
    assert 0 <= top <= top + tall <= height
    assert 0 <= left <= left + wide <= width
    assert tall >= 1
    assert wide >= 1
    assert step.box(key, height, width) == (top, left, tall, wide)
    if min(height, width) >= 200 and 0.5 <= width / height <= 2:
        assert 0.19 <= tall * wide / (height * width) <= 0.61
        assert 0.49 <= wide / tall <= 2.05


def test_areas_and_aspects_are_drawn_as_torchvision_draws_them():
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop as Theirs

    step, image = RandomResizedCrop(), Image.new("RGB", (400, 300))
    theirs = np.array([Theirs.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = np.array([step.box(key * 7919, 300, 400) for key in range(3000)])
    for figures in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert ks_2samp(figures(ours), figures(theirs)).pvalue > 1e-3


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_the_box_is_cut_from_the_upright_image(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(smooth(1, 300, 200), form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    upright = decode(content, "x")
    box = (20, 40, 120, 90)
    asked = []
    cut = decode_crop(content, "x", 32, lambda height, width: asked.append((height, width)) or box)
    assert asked == [upright.shape[:2]]
    top, left, tall, wide = box
    part = Image.fromarray(upright[top : top + tall, left : left + wide]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.abs(cut.astype(int) - np.asarray(part)).mean() < (1 if form == "PNG" else 4)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def xmp_of(orientation):
    return b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def after_start(content, *segments):
    """A JPEG file with other segments of application data (APP1) before all its own."""
    inserted = b"".join(b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body for body in segments)
    return content[:2] + inserted + content[2:]


def turned(form, orientation, side):
    """A file whose pixels tell all eight orientations apart; stored with sides of side and 2/3 side."""
    pixels, exif = smooth(3, side, side * 2 // 3), exif_of(orientation)
    if form in ("PNG", "WEBP", "TIFF"):
        lossless = {"lossless": True} if form == "WEBP" else {}
        return encoded(pixels, form, exif=exif, **lossless)
    plain = encoded(pixels, "JPEG", quality=95)
    return {
        "JPEG": encoded(pixels, "JPEG", quality=95, exif=exif),
        "doubled": after_start(plain, exif, exif),
        "doubled_within": after_start(plain, b"Exif\0\0" + exif),
        "two_orders": after_start(plain, exif, exif_of(1)),
        "cut": after_start(plain, exif[: len(exif) // 2]),
        "without_end": after_start(plain, exif[:-4]),
        "XMP": after_start(plain, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of(orientation)),
        "progressive": encoded(pixels, "JPEG", quality=95, progressive=True, exif=exif),
        "gray": after_start(encoded(pixels[..., 0], "JPEG", quality=95), exif),
    }[form]


def agree(content, size):
    """Asserts that a crop of the whole image is the whole image, or that neither can be read."""
    try:
        upright = decode(content, "x")
    except Unreadable:
        with pytest.raises(Unreadable):
            decode_crop(content, "x", size, lambda height, width: (0, 0, height, width))
        return
    asked = []
    cut = decode_crop(content, "x", size, lambda height, width: asked.append((height, width)) or (0, 0, height, width))
    assert asked == [upright.shape[:2]]
    expected = Image.fromarray(upright).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(cut.astype(int) - np.asarray(expected)).mean() < 6  # turned otherwise, more than 20


KINDS = ["PNG", "WEBP", "TIFF", "JPEG", "doubled", "doubled_within", "two_orders", "cut", "without_end", "XMP",
         "progressive", "gray"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", [60, 480])  # at full scale and at a reduced one
@pytest.mark.parametrize("form", KINDS)
def test_crops_and_whole_images_are_upright_alike(form, side):
    for orientation in range(1, 10):
        agree(turned(form, orientation, side), 32)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_crop_of_a_golden_file_is_that_of_the_whole_image(name):
    agree(GOLDEN[name][0], 16)


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(["JPEG", "doubled", "TIFF", "PNG"]), st.integers(1, 8), st.data())
def test_crops_and_whole_images_agree_on_damaged_exif(form, orientation, data):
    content = bytearray(turned(form, orientation, 48))
    for _ in range(data.draw(st.integers(1, 4))):  # all but TIFF hold their EXIF in the first bytes
        place = data.draw(st.integers(-90, -1) if form == "TIFF" else st.integers(20, 55))
        content[place] = data.draw(st.integers(0, 255))
    agree(bytes(content), 24)


def test_it_must_come_first():
    with pytest.raises(
        ValueError, match="random_resized_crop crops the image as it is stored; it must be the first step"
    ):
        per_image((ColorJitter(), RandomResizedCrop()))
    with pytest.raises(ValueError, match="random_resized_crop transforms single images and must come before"):
        per_image((HorizontalFlip(), RandomResizedCrop()))


@pytest.mark.parametrize("cached", [True, False, "resized"])
def test_the_same_batches_whatever_the_number_of_workers(tmp_path, cached):
    images = ImageFolder(size=24, cached=cached).load(photographs(tmp_path / "pictures")).train
    steps = per_image((RandomResizedCrop(scale=(0.3, 1.0)),))
    plan = Plan(len(images), 4, seed=3)
    here, there = (list(feed(plan, images, CPU, steps, workers).epoch(1)) for workers in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert (a.images == b.images).all()
        assert (a.index == b.index).all()
    other = Fetch(images, steps)
    assert not np.array_equal(other.per_image.read(images.pixels, 0, 1), other.per_image.read(images.pixels, 0, 2))


def test_a_run_on_files_is_reported_on_and_a_lost_file_ends_it_resumably(tmp_path, home):
    root = photographs(tmp_path / "pictures", each=30)
    declared = EXPERIMENT.but({
        "data": ImageFolder(size=16, cached=False), "augment": (RandomResizedCrop(),), "batch_size": 8, "epochs": 2,
    })  # fmt: skip
    launch = Launch(threads=1, mlflow=False, root=root, workers=1)
    whole = train(declared, launch, "tiny")
    assert (whole.folder / "artifacts" / "report.html").exists()

    real, taken = Fetch.__getitem__, tmp_path / "taken.jpg"
    lost = root / "cat" / "7.jpg"
    seen = []

    def losing(self, request):
        seen.append(1)
        if len(seen) == 3 and lost.exists() and self.per_image:
            lost.rename(taken)
        return real(self, request)

    launch = launch.but({"workers": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fetch, "__getitem__", losing)
        with pytest.raises(Unfinished, match=r"7\.jpg: No such file or directory \(it could be read") as stopped:
            train(declared, launch, "tiny")
    taken.rename(lost)
    again = resume(load(stopped.value.run))
    assert again.status == "FINISHED"
    same = {name: points for name, points in whole.history.items() if name.startswith(("train/", "val/", "test/"))}
    assert {name: again.history[name] for name in same} == same


def test_a_file_lost_to_a_loading_process_is_named_in_one_line(tmp_path):
    root = photographs(tmp_path / "pictures")
    images = ImageFolder(size=24, cached=False).load(root).train
    (root / "cat" / "1.jpg").unlink()
    for path in (root / "dog").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    steps = per_image((RandomResizedCrop(),))
    batches = Host.of(Plan(len(images), 4), Fetch(images, steps), CPU, workers=1)
    with pytest.raises(ImageLost) as caught:
        list(batches.epoch(0))
    message = str(explained(caught.value, "run", 0))
    assert "\n" not in message
    assert str(root) in message


def test_mean_and_deviation_come_from_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(normalize, "DECODED", 5)
    kept = ImageFolder(size=24).load(photographs(tmp_path / "pictures")).train
    files = ImageFolder(size=24, cached=False).load(tmp_path / "pictures").train
    some = normalize._first(kept, 5)
    assert mean_and_std(files) == mean_and_std(Images(kept.pixels, some.rows, some.targets))

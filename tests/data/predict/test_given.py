"""`Run.predict` of paths, images of Pillow, arrays of any size and data sets: each is read as the run's own images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from core.common.errors import UserError
from core.runs.trained import load
from data import ImageFolder
from data.reading.decode import Conversion, decode
from tests.support.samples import encoded, noise


@pytest.fixture
def run(lab, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(lab[0]))
    return load(lab[2][0].id)


@pytest.fixture
def files(tmp_path):
    """Images that a conversion can get wrong: sides, rotation, transparency, palette, 16 bits, gray, a large JPEG."""
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = np.dstack([noise(1, 20, 30), np.full((20, 30), 99, np.uint8)])
    deep = (np.arange(24 * 24, dtype=np.uint16) * 100).reshape(24, 24)
    contents = {
        "wide.png": encoded(noise(0, 20, 50)),
        "turned.jpg": encoded(noise(2, 40, 20), "JPEG", exif=exif),
        "clear.png": encoded(alpha),
        "palette.gif": encoded(noise(3, 20, 20), "GIF"),
        "gray.png": encoded(noise(4, 30, 20)[..., 0]),
        "deep.png": encoded(deep),
        "large.jpg": encoded(np.kron(noise(5, 20, 30), np.ones((20, 20, 1), np.uint8)), "JPEG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def own_reading(run, files, **how):
    return run.predict(np.stack([decode(path.read_bytes(), "", 16, Conversion(**how)) for path in files]))


def test_paths_and_images_of_pillow_are_read_as_files_of_the_run(run, files):
    expected = own_reading(run, files)
    assert np.ptp(expected[:, 0]) > 0
    np.testing.assert_array_equal(run.predict(files), expected)
    np.testing.assert_array_equal(run.predict([str(path) for path in files]), expected)
    np.testing.assert_array_equal(run.predict([Image.open(path) for path in files]), expected)
    for one in (files[0], str(files[0]), Image.open(files[0])):
        np.testing.assert_allclose(run.predict(one), expected[:1], rtol=1e-6)  # a batch of another size
    read = [Image.open(io.BytesIO(path.read_bytes())) for path in files[:-1]]
    for image in read:
        image.load()
    np.testing.assert_allclose(run.predict(read), expected[:-1], rtol=1e-6)


def test_an_image_of_pillow_is_left_as_it_is(run, files):
    images = [Image.open(path) for path in files]
    before = [image.size for image in images]
    run.predict(images)
    assert [image.size for image in images] == before
    np.testing.assert_array_equal(np.asarray(images[0]), np.asarray(Image.open(files[0])))


def test_arrays_of_any_size_are_read_as_files_of_these_pixels(run, tmp_path):
    arrays = [noise(seed, *size) for seed, size in enumerate([(20, 50), (16, 16), (5, 4), (40, 40)])]
    gray = [arrays[0][..., 0], arrays[1][..., :1]]
    files = []
    for number, pixels in enumerate([*arrays, *gray]):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(encoded(pixels[..., 0] if pixels.shape[-1:] == (1,) else pixels))
    np.testing.assert_array_equal(run.predict([*arrays, *gray]), run.predict(files))
    same = np.stack([arrays[0], arrays[0][::-1]])
    np.testing.assert_allclose(run.predict(same)[:1], run.predict(files[:1]), rtol=1e-6)
    tensors = [torch.from_numpy(pixels).permute(2, 0, 1) for pixels in same]
    np.testing.assert_array_equal(run.predict(tensors), run.predict(same))
    np.testing.assert_array_equal(run.predict(torch.stack(tensors)), run.predict(same))


class Stored(Dataset):
    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, place):
        return Image.open(self.files[place]), place


class Streamed(IterableDataset):
    def __init__(self, files):
        self.files = files

    def __iter__(self):
        return iter(self.files)


def test_data_sets_are_read_in_their_order(run, lab, files):
    expected = run.predict(files)
    np.testing.assert_array_equal(run.predict(Stored(files)), expected)
    np.testing.assert_array_equal(run.predict(Streamed(files)), expected)
    splits = ImageFolder(size=32).load(lab[1])
    paths = sorted((lab[1] / "test").rglob("*.png"))
    by_class = {name: run.predict([path for path in paths if path.parent.name == name]) for name in splits.classes}
    found = run.predict(splits.test)
    for label, name in enumerate(splits.classes):
        wanted = np.sort(by_class[name][:, 0])
        np.testing.assert_allclose(np.sort(found[splits.test.targets == label][:, 0]), wanted, atol=1e-6)


def test_batches_change_nothing(run, files):
    many = files * 3
    np.testing.assert_allclose(run.predict(many, batch_size=2), run.predict(many), rtol=1e-4, atol=1e-6)
    sizes = []
    run._network("cpu").model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    run.predict(np.zeros((5, 16, 16, 3), np.uint8), batch_size=2)
    assert sizes == [2, 2, 1]


def test_the_conversion_is_the_declared_one(lab, run, files, monkeypatch):
    data = run.experiment.data.but({"background": "black", "max_value": 4095})
    experiment = run.experiment.but({"data": data})
    monkeypatch.setattr(type(run), "experiment", property(lambda self: experiment))
    black = own_reading(run, files[:5], background="black", max_value=4095)
    np.testing.assert_array_equal(run.predict(files[:5]), black)
    assert not np.array_equal(black, own_reading(run, files[:5]))


def test_files_that_cannot_be_read_are_named(run, files, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(files[-1].read_bytes()[:300])
    wrong = [tmp_path / "torn.jpg", files[0], tmp_path / "none.png", tmp_path]
    with pytest.raises(UserError) as caught:
        run.predict(wrong)
    text = "\n".join(caught.value.lines)
    assert len(caught.value.lines) == 3
    assert f"{tmp_path / 'none.png'}: No such file" in text
    assert f"{tmp_path}: not a regular file; name its files" in text
    with pytest.raises(
        ValueError, match=r"image 1: images must be uint8 .*, not float32 \[16, 16, 3\]; the values are"
    ):
        run.predict([files[0], np.zeros((16, 16, 3), np.float32)])
    with pytest.raises(UserError, match="image 0: floating-point pixels are not supported"):
        run.predict(Image.fromarray(np.zeros((4, 4), np.float32)))

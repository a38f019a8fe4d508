import os
import shutil
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from core.cli.report import report
from core.common.errors import DataError
from core.common.text import natural
from core.launch import Launch
from core.runs.rerun import rerun_here
from core.runs.train import train
from data import Digits, ImageFolder, ImageTable, WebShards, digits, folder
from data.reading import ingest
from data.reading.decode import decode
from experiments.tiny import EXPERIMENT
from tests.support.samples import age, encoded, noise, packed, tree
from tests.support.shards import shard

FORMS = ["folder", "a.tar", "a.tar.gz", "a.tar.xz", "a.zip"]


def form_of(source, name, below=""):
    return source if name == "folder" else packed(source, source.parent / name, below)


def pixels_of(images):
    return images.pixels[images.rows]


def complaint(root, **fields):
    with pytest.raises(DataError) as caught:
        ImageFolder(size=16, **fields).load(root)
    return "\n".join(caught.value.lines)


def cached_folders(home):
    return [path for path in (home / "data/store/cache").iterdir() if path.is_dir() and path.name != "sources"]


def test_the_same_tree_in_any_form_is_the_same_data_and_shares_one_cache(tmp_path, home):
    source = tree(tmp_path / "source", each=5)
    splits = [ImageFolder(size=16).load(form_of(source, name)) for name in FORMS]
    splits.append(ImageFolder(size=16).load(form_of(source, "b.zip", below="wrapped/")))
    for other in splits[1:]:
        assert other.digest == splits[0].digest
        assert other.classes == ("cat", "dog")
        for split in ("train", "val", "test"):
            mine, theirs = getattr(splits[0], split), getattr(other, split)
            assert np.array_equal(mine.targets, theirs.targets)
            assert np.array_equal(pixels_of(mine), pixels_of(theirs))
    assert len(cached_folders(home)) == 1
    assert splits[2].source == "a.tar.gz: 20 images"


def test_pixels_and_labels_belong_together(tmp_path):
    source = tree(tmp_path / "source", each=5)
    splits = ImageFolder(size=16).load(packed(source, tmp_path / "a.tar.xz"))
    for split, images in (("train", splits.train), ("train", splits.val), ("test", splits.test)):
        known = {
            decode(path.read_bytes(), "", 16).tobytes(): path.parent.name for path in (source / split).rglob("*.png")
        }
        for pixels, target in zip(pixels_of(images), images.targets, strict=True):
            assert known[pixels.tobytes()] == splits.classes[target]
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 2, 10)
    assert splits.train.targets.dtype == splits.train.rows.dtype == np.int64
    assert splits.train.pixels is splits.test.pixels
    assert isinstance(splits.train.pixels, np.memmap)
    assert not splits.train.pixels.flags.writeable


def test_other_contents_names_or_sizes_are_another_digest(tmp_path):
    source = tree(tmp_path / "source")
    digests = [ImageFolder(size=16).load(source).digest, ImageFolder(size=24).load(source).digest]
    (source / "train/cat/00.png").write_bytes(encoded(noise(999)))
    digests.append(ImageFolder(size=16).load(source).digest)
    (source / "train/cat/00.png").rename(source / "train/dog/zz.png")
    digests.append(ImageFolder(size=16).load(source).digest)
    assert len(set(digests)) == 4


def test_another_class_for_one_image_is_another_digest(tmp_path):
    source = tree(tmp_path / "source")
    before = ImageFolder(size=16).load(source).digest
    (source / "train/cat/03.png").rename(source / "train/dog/!.png")  # the order of all images stays
    assert ImageFolder(size=16).load(source).digest != before


def test_no_validation_split_can_be_drawn_with_the_seed_of_test():
    for dataset, seed in ((ImageFolder, folder.TEST_SEED), (Digits, digits.TEST_SEED)):
        with pytest.raises(ValidationError):
            dataset(split_seed=seed)


def test_a_second_start_decodes_nothing(tmp_path, monkeypatch):
    source = tree(tmp_path / "source")
    first = ImageFolder(size=16).load(source)
    monkeypatch.setattr(ingest, "decoded", lambda *arguments: pytest.fail("decoded again"))
    assert ImageFolder(size=16).load(source).digest == first.digest


def test_the_digest_names_what_an_option_changes_and_stays_for_the_rest(tmp_path):
    source = tree(tmp_path / "source")
    plain = [ImageFolder(size=16, background=color, max_value=top).load(source).digest
             for color in ("white", "black") for top in (4095, 65535)]  # fmt: skip
    assert len(set(plain)) == 1
    clear = Image.new("RGBA", (16, 16))
    clear.save(source / "train/cat/00.png")
    white, black = (ImageFolder(size=16, background=color).load(source) for color in ("white", "black"))
    assert white.digest != black.digest
    assert white.train.pixels[white.train.rows].max() == 255
    assert {int(white.train.pixels[row].min()) for row in white.train.rows} != {0}


def test_class_folders_alone_are_split_by_class_and_for_good(tmp_path):
    source = tree(tmp_path / "source", splits=("",), each=20)
    one = ImageFolder(size=16).load(source)
    assert (len(one.train), len(one.val), len(one.test)) == (28, 4, 8)
    assert one.test.counts(2) == (4, 4)
    other = ImageFolder(size=16, split_seed=7).load(source)
    assert np.array_equal(one.test.rows, other.test.rows)
    assert not np.array_equal(one.val.rows, other.val.rows)
    together = np.concatenate([one.train.rows, one.val.rows, one.test.rows])
    assert np.array_equal(np.sort(together), np.arange(40))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_ready_validation_is_used_as_it_is(name, tmp_path):
    splits = ImageFolder(size=16).load(tree(tmp_path / "source", splits=("train", name, "test")))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 8, 8)


def test_a_class_may_be_called_train(tmp_path):
    source = tree(tmp_path / "source", classes=("bus", "plane", "train"), splits=("",), each=5)
    assert ImageFolder(size=16).load(source).classes == ("bus", "plane", "train")


def test_deeper_folders_belong_to_their_class(tmp_path):
    source = tree(tmp_path / "source")
    (source / "train/cat/more/and").mkdir(parents=True)
    (source / "train/cat/more/and/x.png").write_bytes(encoded(noise(50)))
    splits = ImageFolder(size=16).load(source)
    assert len(splits.train) + len(splits.val) == 9


def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    source = tree(tmp_path / "source")
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "._00.png", "train/cat/.DS_Store", "__MACOSX/train/x.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"not an image")
    (source / "train/cat/UPPER.PNG").write_bytes(encoded(noise(60)))
    splits = ImageFolder(size=16).load(packed(source, tmp_path / "a.zip"))
    assert splits.source == "a.zip: 17 images, 6 other files left out"
    assert ImageFolder(size=16).load(source).digest == splits.digest


def broken(source, names):
    for name in names:
        (source / name).write_bytes(b"no image")
    return source


@pytest.mark.parametrize("form", ["folder", "a.tar.xz", "a.zip"])
def test_every_unreadable_image_is_listed(form, tmp_path, home):
    names = ["train/cat/01.png", "train/dog/03.png", "test/dog/00.png"]
    said = complaint(form_of(broken(tree(tmp_path / "source"), names), form))
    assert "3 of 16 images cannot be read" in said
    assert all(f"{name}: cannot identify" in said for name in names)
    assert "repair or remove" in said
    assert [line.partition(":")[0] for line in said.splitlines()[1:-1]] == sorted(names)
    assert not cached_folders(home)


def test_many_unreadable_images_are_counted(tmp_path):
    source = tree(tmp_path / "source", each=40)
    names = [path.relative_to(source) for path in (source / "train").rglob("*.png") if path.name != "00.png"]
    lines = complaint(broken(source, names)).splitlines()
    assert len(lines) == 1 + 50 + 1 + 1
    assert lines[-2] == "... and 28 more"


def test_unreadable_images_can_be_left_out_and_that_is_said(tmp_path, capsys):
    source = broken(tree(tmp_path / "source"), ["train/cat/01.png"])
    splits = ImageFolder(size=16, skip_unreadable=True).load(source)
    assert splits.source == "source: 15 images, 1 unreadable left out"
    assert "skipped, cannot be read: train/cat/01.png" in capsys.readouterr().err
    known = {
        decode(p.read_bytes(), "", 16).tobytes(): p.parent.name for p in source.rglob("*.png") if p.stat().st_size > 9
    }
    everything = [(splits.train, 5), (splits.val, 2), (splits.test, 8)]
    for images, count in everything:
        assert len(images) == count
        for pixels, target in zip(pixels_of(images), images.targets, strict=True):
            assert known[pixels.tobytes()] == splits.classes[target]
    assert "1 of 16 images cannot be read" in complaint(source)


def test_leaving_out_a_whole_class_is_refused(tmp_path):
    source = tree(tmp_path / "source")
    names = [path.relative_to(source) for path in (source / "test/dog").iterdir()]
    assert "the test split would have no image of dog" in complaint(broken(source, names), skip_unreadable=True)


def without(*names):
    def change(source):
        for name in names:
            shutil.rmtree(source / name)

    return change


def moved(name, target):
    return lambda source: (source / name).rename(source / target)


def emptied(name):
    def change(source):
        shutil.rmtree(source / name)
        (source / name).mkdir(parents=True)

    return change


REFUSED = {
    "no_images": (without("train", "test"), "contains no images"),
    "no_test": (without("test"), "test/ contains no images"),
    "no_train": (without("train"), "train/ contains no images"),
    "empty_test": (emptied("test"), "test/ contains no images"),
    "val_for_test": (moved("test", "val"), "rename val/ to test/"),
    "one_class": (without("train/dog", "test/dog"), "cat is the only class"),
    "empty_class": (emptied("train/ant"), "class folder train/ant contains no images"),
    "empty_class_in_one_split": (emptied("test/dog"), "classes of train/ are missing in test/: dog"),
    "class_only_in_test": (moved("test/dog", "test/wolf"), "classes of test/ are missing in train/: wolf"),
    "class_only_in_train": (without("test/dog"), "classes of train/ are missing in test/: dog"),
    "loose_images": (moved("train/cat/00.png", "train/00.png"), "1 images are not in a class folder"),
    "strange_split": (moved("train/dog", "extra"), "images outside train/ and test/, in extra"),
    "empty_val": (emptied("val"), "val/ contains no images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_trees_that_are_refused(case, tmp_path):
    change, expected = REFUSED[case]
    source = tree(tmp_path / "source")
    if case == "empty_class":
        (source / "train/ant").mkdir()
    change(source) if case != "empty_val" else (source / "val").mkdir()
    assert expected in complaint(source)


def test_two_names_of_validation_are_refused(tmp_path):
    source = tree(tmp_path / "source", splits=("train", "test", "val", "valid"))
    assert "val and valid are names of the same split" in complaint(source)


def test_all_that_is_wrong_with_a_tree_is_reported_at_once(tmp_path):
    source = tree(tmp_path / "source", classes=("cat", "dog", "owl"))
    moved("test/dog", "test/wolf")(source)
    (source / "train/ant").mkdir()
    said = complaint(source)
    assert "classes of train/ are missing in test/: dog" in said
    assert "classes of test/ are missing in train/: wolf" in said
    assert "train/ant contains no images" in said


def test_too_few_images_to_split_are_refused(tmp_path):
    assert "the val split would have no image of cat, dog" in complaint(tree(tmp_path / "source", splits=("",), each=2))


def test_a_message_names_a_few_of_many_classes(tmp_path):
    many = tree(tmp_path / "source", classes=[f"c{number}" for number in range(20)], splits=("",), each=2)
    assert "would have no image of c0, c1, c2, c3, c4, c5, c6, c7 and 12 more; add images" in complaint(many)


def test_an_archive_with_a_name_twice_is_refused(tmp_path):
    source = tree(tmp_path / "source")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(source, ".")
        archive.add(source / "train/cat/00.png", "./train/cat/00.png")
    assert "train/cat/00.png twice" in complaint(tmp_path / "a.tar")


def test_without_root_the_layout_is_shown():
    said = complaint(None)
    assert "--root PATH" in said
    assert "train/<class>/*.jpg" in said


def test_a_root_that_is_not_there_is_named(tmp_path):
    assert "nowhere" in complaint(tmp_path / "nowhere")


def test_an_edited_source_is_read_again(tmp_path):
    path = packed(tree(tmp_path / "source"), tmp_path / "a.zip")
    age(path)
    before = ImageFolder(size=16).load(path)
    (tmp_path / "source/train/cat/00.png").write_bytes(encoded(noise(77)))
    packed(tmp_path / "source", path)
    assert ImageFolder(size=16).load(path).digest != before.digest


def test_names_that_are_no_text_are_read(tmp_path):
    source = tree(tmp_path / "source")
    odd = os.fsencode(source / "train/cat/") + b"/\xff\xfe.png"
    with open(odd, "wb") as stream:
        stream.write(encoded(noise(5)))
    first = ImageFolder(size=16).load(source)
    assert first.digest == ImageFolder(size=16).load(packed(source, tmp_path / "a.tar")).digest


SPELLINGS = {
    "capitals": ("Train", "Test", None),
    "long": ("Training", "Testing", None),
    "sets": ("training_set", "test set", None),
    "plural": ("trains", "TESTS", None),
    "valid": ("TRAIN", "test", "Valid"),
    "dev": ("train-data", "test-data", "Dev-Data"),
    "evaluation": ("train", "Test", "Evaluation"),
}


@pytest.mark.parametrize("case", SPELLINGS)
@pytest.mark.parametrize("form", ["folder", "a.zip"])
def test_split_folders_are_recognized_however_they_are_spelled(case, form, tmp_path):
    train, test, val = SPELLINGS[case]
    source = tree(tmp_path / "source", splits=[name for name in (train, test, val) if name], each=5)
    splits = ImageFolder(size=16).load(form_of(source, form))
    assert splits.classes == ("cat", "dog")
    sizes = (len(splits.train), len(splits.val), len(splits.test))
    assert sizes == ((10, 10, 10) if val else (8, 2, 10))


def test_folders_around_the_splits_and_around_the_classes_of_each_split_are_looked_into(tmp_path):
    expected = ImageFolder(size=16).load(tree(tmp_path / "plain", each=5))
    wrapped = tree(tmp_path / "wrapped/archive/My images", splits=("Training", "Testing"), each=5)
    found = ImageFolder(size=16).load(wrapped.parents[1])
    doubled = tree(tmp_path / "doubled", splits=("train/train", "test/test"), each=5)
    again = ImageFolder(size=16).load(doubled)
    for splits in (found, again):
        assert splits.classes == expected.classes == ("cat", "dog")
        assert np.array_equal(pixels_of(splits.test), pixels_of(expected.test))


def test_an_earlier_cache_with_another_arrangement_is_replaced(tmp_path, monkeypatch):
    from data.reading import layout

    source = tree(tmp_path / "source", splits=("Training", "Testing"))
    with monkeypatch.context() as patch:  # as before these names were known
        patch.setattr(layout, "split_of", lambda name: None)
        patch.setattr(layout, "_doubts", lambda paths: [])
        patch.setattr(layout, "VERSION", "")
        before = ImageFolder(size=16).load(source)
    assert before.classes == ("Testing", "Training")
    after = ImageFolder(size=16).load(source)
    assert after.digest == before.digest
    assert after.classes == ("cat", "dog")


DOUBTED = {
    "look_alike": (("seg_train", "seg_test"), "seg_test/ as test and seg_train/ as train"),
    "look_alike_beside": (("train_1", "test_1", "prediction"), "test_1/ as test and train_1/ as train"),
    "one_known": (("train", "my test images"), "my test images/ as test and train/ as train"),
    "mixed": (("Train", "Test", "extra"), "images outside Train/ and Test/, in extra"),
    "twice": (("train", "Training", "test"), "Training and train are names of the same split"),
    "no_test": (("Train", "eval"), "rename eval/ to test/"),
    "inside_classes": (("cat/train", "cat/test"), "the splits test/ and train/ are in cat/, next to other folders"),
}


def test_of_train_and_val_alone_val_is_the_test_split_if_it_is_declared(tmp_path, capsys):
    source = tree(tmp_path / "source", splits=("train", "val"), each=6)
    assert "rename val/ to test/, or add --data.test val" in complaint(source)
    splits = ImageFolder(size=16, test="val").load(source)
    assert (
        "source: val is the test split, read once, at the end; 0.1 of each class of train is" in capsys.readouterr().err
    )
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 2, 12)
    expected = {decode(path.read_bytes(), "", 16).tobytes() for path in source.glob("val/*/*.png")}
    assert {image.tobytes() for image in pixels_of(splits.test)} == expected
    assert train(
        EXPERIMENT.but({"data": ImageFolder(size=16, test="val"), "epochs": 1, "batch_size": 4, "augment": ()}),
        Launch(mlflow=False, root=source),
    ).metrics["test/loss"]
    (source / "test").mkdir()
    shutil.copytree(source / "val" / "cat", source / "test" / "cat")
    assert "test and val are names of the same split; keep one of them" in complaint(source, test="val")


@pytest.mark.parametrize("case", DOUBTED)
def test_folders_that_only_look_like_splits_are_refused_with_what_was_understood(case, tmp_path):
    names, expected = DOUBTED[case]
    source = tree(tmp_path / "source", splits=names)
    if case == "inside_classes":
        tree(source / "other", splits=("",))
    assert expected in complaint(source)


def test_splits_inside_the_class_folders_are_refused_with_the_mend(tmp_path):
    source = tree(tmp_path / "source", classes=("train", "test"), splits=("cat", "dog"))
    assert "inside the class folder; move cat/test/ to test/cat/, for every class" in complaint(source)


def test_classes_whose_names_contain_a_split_are_classes(tmp_path):
    source = tree(tmp_path / "source", classes=("test tube", "train station", "dev"), splits=("",), each=5)
    assert ImageFolder(size=16).load(source).classes == ("dev", "test tube", "train station")
    deep = tree(tmp_path / "deep", classes=("left", "right"), splits=("bullet train", "steam train"), each=5)
    assert ImageFolder(size=16).load(deep).classes == ("bullet train", "steam train")


NUMBERED = [str(number) for number in range(12)]


def test_numbered_classes_have_one_order_in_folders_tables_and_shards(tmp_path):
    source = tree(tmp_path / "source", classes=NUMBERED, splits=("",), each=3)
    rows = sorted((path.relative_to(source).as_posix(), path.parent.name) for path in source.rglob("*.png"))
    (tmp_path / "source/table.csv").write_text("path,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    pairs = [(f"{at:03}", *row) for at, row in enumerate(rows)]
    shard(tmp_path / "shards/a.tar", [
        file for key, name, label in pairs
        for file in ((f"{key}.png", (source / name).read_bytes()), (f"{key}.cls", label.encode()))
    ])  # fmt: skip
    found = [ImageFolder(size=16).load(source), ImageTable(size=16).load(source)]
    found.append(WebShards(size=16).load(tmp_path / "shards"))
    known = {decode((source / name).read_bytes(), "", 16).tobytes(): label for name, label in rows}
    for splits in found:
        assert splits.classes == tuple(NUMBERED)
        for pixels, target in zip(pixels_of(splits.test), splits.test.targets, strict=True):
            assert known[pixels.tobytes()] == splits.classes[target]


def test_numbers_within_names_are_compared_as_numbers():
    assert natural(["b2", "b10", "b1", "a", "b", "B3"]) == ("B3", "a", "b", "b1", "b2", "b10")
    assert natural(["10", "-2", "-10", "9", "009"]) == ("-10", "-2", "009", "9", "10")
    assert natural(["9" * 5000, "1" + "0" * 5000, "x"]) == ("9" * 5000, "1" + "0" * 5000, "x")


def test_a_run_with_the_former_order_of_classes_is_read_and_continued_in_it(tmp_path, home):
    source = tree(tmp_path / "source", classes=NUMBERED, splits=("",), each=10)
    declared = EXPERIMENT.but({
        "data": ImageFolder(size=16), "batch_size": 12, "epochs": 2, "loss.weights": ",".join(NUMBERED),
    })  # fmt: skip
    launch = Launch(threads=1, mlflow=False, root=source)
    former = SimpleNamespace(record={"data": {"classes": sorted(NUMBERED)}}, precision="fp32")
    old = train(declared, launch, "tiny", like=former)
    assert old.record["data"]["classes"] == sorted(NUMBERED)
    known = ImageFolder(size=16).load(source)
    answers = old.predict(pixels_of(known.test)).argmax(axis=1)
    mine = [old.record["data"]["classes"][at] for at in answers]
    right = [name == known.classes[target] for name, target in zip(mine, known.test.targets, strict=True)]
    assert np.mean(right) == pytest.approx(old.metrics["test/accuracy"])
    longer = train(declared.but({"epochs": 3}), launch, "tiny", continued=old)
    again = rerun_here(old, launch)
    for run in (longer, again):
        assert run.record["data"]["classes"] == sorted(NUMBERED)
    assert again.metrics["test/loss"] == old.metrics["test/loss"]
    assert report(old, launch).exists()
    record = old.record["data"]
    assert not known.same_as(record)
    assert known.ordered(record["classes"]).same_as(record)
    assert known.ordered(["0", "1"]) is known

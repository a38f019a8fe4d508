"""`labbook check`: all defects of a folder are reported at once, and nothing is changed."""

import io
import os
import re
import shutil
import sys
import tarfile
import warnings

import numpy as np
import pytest
from PIL import Image

from core.cli import main as labbook
from core.common.errors import DataError, UserError
from core.launch import Launch
from core.record.run import WEIGHTS
from core.runs.recorder import RunInfo
from core.runs.train import train
from data import Digits, ImageFolder
from data.check.check import inspect, main
from data.check.findings import CROWDED, findings
from data.check.labels import usual_confidence
from data.check.pairs import near
from data.check.survey import survey
from data.reading.decode import AS_DECLARED, Unreadable, decode
from experiments.tiny import EXPERIMENT
from tests.support.golden import GOLDEN
from tests.support.mutations import mutated
from tests.support.samples import encoded, noise, packed, tree


def checked(capsys, *words):
    """(exit status, what is said)"""
    status = main([str(word) for word in words])
    return status, capsys.readouterr().out


def smooth(seed, side=96):
    """A picture that is like no other, and like itself at another size. uint8 [side, side, 3]"""
    return np.asarray(Image.fromarray(noise(seed, 6, 6)).resize((side, side), Image.Resampling.BICUBIC))


def put(folder, name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else encoded(content))


def copied(source, target):
    return lambda folder: shutil.copy(folder / source, folder / target)


def contents_of(folder):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.parametrize("form", ["folder", "a.tar.xz", "a.zip"])
def test_sound_images_are_counted_and_left_as_they_are(form, tmp_path, home, capsys, monkeypatch):
    source = tree(tmp_path / "source", each=5)
    path = source if form == "folder" else packed(source, tmp_path / form)
    before = contents_of(tmp_path)
    monkeypatch.chdir(home)
    status, said = checked(capsys, path)
    assert status == 0
    assert said.endswith("\nno errors\n")
    assert f"{path}: 20 images, 2 classes" in said
    assert re.search(r"train +test *\n.*\n +cat +5 +5 *\n +dog +5 +5 *\n(.*\n)? +all +10 +10 *\n", said)
    assert "sizes: all 32 x 32 pixels\nformats: PNG 20\nmodes: RGB 20\n" in said
    assert "train: imbalance ratio 1.0\n" in said
    assert contents_of(tmp_path) == before


def unlucky(folder):
    """A tree with everything that can be wrong; what must be said of it."""
    tree(folder, each=6)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.fromarray(noise(seed)) for seed in (105, 106)]
    put(folder, "train/cat/text.jpg", b"hello, I am text\n")
    put(folder, "train/cat/empty.jpg", b"")
    put(folder, "train/cat/cut.jpg", encoded(noise(101, 64, 64), "JPEG")[:900])
    put(folder, "train/cat/page.jpg", b"<!DOCTYPE html><html>404")
    put(folder, "train/cat/phone.jpg", b"\0\0\0\x18ftypheic" + bytes(100))
    put(folder, "train/cat/deep.png", noise(103)[..., 0].astype(np.uint16) << 8)
    put(folder, "train/dog/cmyk.jpg", _saved(Image.fromarray(noise(104)).convert("CMYK"), "JPEG"))
    put(folder, "train/dog/moves.gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    put(folder, "train/dog/turned.png", _saved(Image.fromarray(noise(107)), "PNG", exif=turned))
    put(folder, "train/dog/disguised.jpg", noise(108))
    put(folder, "train/owl/one.png", noise(109))
    put(folder, "train/cat/my photo.png", noise(110))
    put(folder, "train/cat/кошка.png", noise(111))
    put(folder, "train/cat/A.png", noise(112))
    put(folder, "train/cat/a.png", noise(113))
    put(folder, "train/cat/.hidden.png", b"x")
    put(folder, "notes.txt", b"x")
    put(folder, "train/cat/tree.heic", b"x")
    put(folder, "test/loose.png", noise(114))
    (folder / "train/ant").mkdir()
    (folder / "test/cat/leak.png").write_bytes((folder / "train/cat/00.png").read_bytes())
    (folder / "train/dog/both.png").write_bytes((folder / "train/cat/01.png").read_bytes())
    (folder / "train/cat/again.png").write_bytes((folder / "train/cat/02.png").read_bytes())
    put(folder, "train/cat/large.png", smooth(115))
    put(folder, "test/dog/small.jpg", encoded(smooth(115, 60), "JPEG"))
    return {
        "error": [
            "images are not in a class folder: test/loose.png",
            "the class folder train/ant contains no images",
            "classes of train/ are missing in test/: owl",
            "train/cat/text.jpg: not an image but text",
            "train/cat/empty.jpg: the file is empty",
            "train/cat/cut.jpg: image file is truncated",
            "train/cat/page.jpg: not an image but a web page",
            "train/cat/phone.jpg: HEIC is not supported",
            "test/cat/leak.png = train/cat/00.png",
            "train/cat/01.png = train/dog/both.png",
            "test/dog/small.jpg ~ train/cat/large.png",
            "train/owl: 1 image, at least 2 are required",
        ],
        "warning": [
            "train/cat/02.png = train/cat/again.png",
            "imbalance ratio 13.0 (cat 13, owl 1)",
            "train/cat/A.png and train/cat/a.png",
            "train/cat/tree.heic",
        ],
        "note": [
            "train/cat/кошка.png",
            "train/cat/my photo.png",
            "1 image with 16 bits per channel: converted to 8 bits; see --data.max_value\n    train/cat/deep.png",
            "1 image in CMYK: converted by Pillow, without a color profile\n    train/dog/cmyk.jpg",
            "1 image with several frames or pages: the first one is used\n    train/dog/moves.gif",
            "1 image rotated by EXIF: rotated upright\n    train/dog/turned.png",
            "train/dog/disguised.jpg: PNG",
            "train/cat/.hidden.png",
            "notes.txt",
        ],
    }


def _saved(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def by_grade(said):
    """Grade -> all that is said under it."""
    parts = re.split(r"\n\n(?=error: |warning: |note: )", said.rpartition("\n\n")[0])[1:]
    return {
        grade: "\n".join(part for part in parts if part.startswith(grade)) for grade in ("error", "warning", "note")
    }


@pytest.mark.parametrize("form", ["folder", "a.tar", "a.zip"])
def test_an_unlucky_folder_is_reported_in_one_message(form, tmp_path, capsys):
    expected = unlucky(tmp_path / "source")
    path = tmp_path / "source"
    if form != "folder":  # no archive of the tests holds an empty folder
        expected["error"].remove("the class folder train/ant contains no images")
        path = packed(tmp_path / "source", tmp_path / form)
    status, said = checked(capsys, path, "--all")
    assert status == 1
    reported = by_grade(said)
    for grade, lines in expected.items():
        for line in lines:
            assert line in reported[grade], f"{grade}: {line}\n{said}"
    assert said.endswith("6 errors, 4 warnings\n")


def test_links_that_lead_out_are_all_reported_and_the_rest_is_read(tmp_path, capsys):
    source = tree(tmp_path / "source")
    put(tmp_path, "out/x.png", noise(200))
    (source / "train/cat/out.png").symlink_to(tmp_path / "out/x.png")
    (source / "train/cat/nowhere.png").symlink_to("/nowhere")
    (source / "train/dog/folder").symlink_to(tmp_path / "out")
    (source / "train/dog/inside.png").symlink_to(source / "train/dog/00.png")
    os.mkfifo(source / "train/dog/pipe.png")
    put(source, "test/dog/00.png", b"no image")
    status, said = checked(capsys, source)
    assert status == 1
    wrong = by_grade(said)["error"]
    for name, what in {
        "train/cat/out.png": "a symbolic link that",
        "train/cat/nowhere.png": "a symbolic link that",
        "train/dog/folder": "a symbolic link to a folder",
        "train/dog/pipe.png": "not a regular file",
    }.items():
        assert wrong.count(f"{source}/{name} is {what}") == 1
    assert "test/dog/00.png: " in wrong
    assert "inside.png" not in wrong
    with pytest.raises(DataError, match="train"):  # training stops at the first, as ever
        ImageFolder(size=16).load(source)


WRONG = {
    "unreadable": lambda folder: put(folder, "train/cat/00.png", b"no image"),
    "leak": copied("train/cat/00.png", "test/cat/x.png"),
    "two_classes": copied("train/cat/00.png", "train/dog/x.png"),
    "class_missing": lambda folder: shutil.rmtree(folder / "test/cat"),
    "near_leak": lambda folder: (
        put(folder, "train/cat/x.png", smooth(1)),
        put(folder, "test/cat/x.png", smooth(1, 64)),
    ),
    "few": lambda folder: [path.unlink() for path in (folder / "train/cat").glob("0[1-9].png")],
}
DOUBTFUL = {
    "repeated": copied("train/cat/00.png", "train/cat/x.png"),
    "near": lambda folder: (put(folder, "train/cat/x.png", smooth(1)), put(folder, "train/cat/y.png", smooth(1, 64))),
    "near_classes": lambda folder: (
        put(folder, "train/cat/x.png", smooth(1)),
        put(folder, "train/dog/y.png", smooth(1, 64)),
    ),
    "uneven": lambda folder: [put(folder, f"train/dog/x{seed}.png", noise(300 + seed)) for seed in range(40)],
    "one_image": lambda folder: [path.unlink() for path in (folder / "test/cat").glob("0[1-9].png")],
    "case": lambda folder: put(folder, "train/cat/X.png", noise(901)) or put(folder, "train/cat/x.png", noise(902)),
}


@pytest.mark.parametrize("case", [*WRONG, *DOUBTFUL])
def test_what_is_wrong_ends_with_1_and_what_is_doubtful_with_0(case, tmp_path, capsys):
    source = tree(tmp_path / "source")
    (WRONG | DOUBTFUL)[case](source)
    status, said = checked(capsys, source)
    assert status == (case in WRONG)
    grades = re.findall(r"^(error|warning): ", said, re.MULTILINE)
    assert grades == ["error" if case in WRONG else "warning"]


@pytest.mark.parametrize("splits", [("",), ("train", "test"), ("train", "val", "test")], ids=["whole", "two", "three"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_classes_too_small_are_those_that_training_refuses(splits, count, tmp_path):
    source = tree(tmp_path / "source", splits=splits, each=8)
    for path in sorted((source / splits[0] / "cat").iterdir())[count:]:
        path.unlink()
    errors = [finding for finding in findings(inspect(source, ImageFolder())) if finding.grade == "error"]
    if count < {1: 3, 2: 2, 3: 1}[len(splits)]:
        with pytest.raises(DataError, match="split would have no image of cat"):
            ImageFolder(size=16).load(source)
        (finding,) = errors
        assert "too few readable images" in finding.said
    else:
        ImageFolder(size=16).load(source)
        assert not errors


def test_a_copy_among_class_folders_alone_is_a_leak(tmp_path, capsys):
    source = tree(tmp_path / "source", splits=("",))
    copied("cat/00.png", "cat/x.png")(source)
    status, said = checked(capsys, source)
    assert status == 1
    assert "the test split is random" in said
    assert "cat/00.png = cat/x.png" in said


def test_what_is_wrong_is_reported_whole_and_the_rest_when_asked(tmp_path, capsys):
    source = tree(tmp_path / "source", each=60)
    for number in range(55):
        put(source, f"train/cat/{number:02}.png", b"no image")
        put(source, f"train/dog/s p {number:02}.png", noise(500 + number, 8, 8))
    _, said = checked(capsys, source)
    assert sum(line.startswith("    train/cat/") for line in said.splitlines()) == 55
    assert sum(line.startswith("    train/dog/s p") for line in said.splitlines()) == 10
    assert "    ... and 45 more\n" in said
    assert said.endswith("--all lists all names\n")
    _, said = checked(capsys, source, "--all")
    assert sum(line.startswith("    train/dog/s p") for line in said.splitlines()) == 55


def test_sizes_are_reported_in_a_histogram(tmp_path, capsys):
    source = tree(tmp_path / "source")
    put(source, "train/cat/x.png", noise(1, 10, 300))
    put(source, "train/cat/y.png", noise(2, 100, 200))
    _, said = checked(capsys, source)
    assert "smallest 32 x 32 (test/cat/00.png), median 32 x 32, largest 200 x 100 (train/cat/y.png)" in said
    assert "shorter side in pixels: 8-15: 1 | 32-63: 16 | 64-127: 1\n" in said


def test_a_crowded_folder_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data.check.findings.CROWDED", 5)
    assert CROWDED == 50_000
    _, said = checked(capsys, tree(tmp_path / "source", each=6))
    assert "folders with more than 5 images" in said
    assert "    train/cat: 6\n" in said


@pytest.mark.parametrize(
    ("case", "treated"),
    [
        ("rgb", ()),
        ("gray", ()),
        ("palette_with_transparency", ("with transparency",)),
        ("half_alpha", ("with transparency",)),
        ("sixteen_bit_png", ("with 16 bits per channel",)),
        ("sixteen_bit_tiff", ("with 16 bits per channel",)),
        ("sixteen_bit_pgm", ("with 16 bits per channel",)),
        ("cmyk", ("in CMYK",)),
        ("animated_first_frame", ("with several frames or pages",)),
    ],
)
def test_what_the_policy_does_is_known_of_each_image(case, treated, tmp_path):
    put(tmp_path, "cat/a.ppm", GOLDEN[case][0])
    found = survey(ImageFolder().listed(tmp_path, pytest.fail), AS_DECLARED)
    assert [one.treated for one in found.seen.values()] == [treated]


def test_a_second_frame_that_is_broken_does_no_harm(tmp_path):
    whole = GOLDEN["animated_first_frame"][0]
    put(tmp_path, "cat/a.gif", whole[:60])  # within the second frame
    found = survey(ImageFolder().listed(tmp_path, pytest.fail), AS_DECLARED)
    assert [one.treated for one in found.seen.values()] == [()]


def test_damaged_files_are_those_that_decoding_refuses(tmp_path):
    expected = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(400):
            name, content, _ = mutated(number)
            put(tmp_path, f"cat/{name}", content)
            try:
                decode(content, name, 32)
            except Unreadable:
                expected.add(f"cat/{name}")
    listing = ImageFolder().listed(tmp_path, pytest.fail)
    found, seen = listing.tree, survey(listing, AS_DECLARED)
    assert {found.names[row] for row in seen.unreadable} == expected
    assert len(seen.seen) == 400 - len(expected)
    assert all(seen.unreadable.values())


def test_near_duplicates_are_the_planted_ones_and_time_is_kept(tmp_path):
    for seed in range(60):
        put(tmp_path, f"{'train' if seed % 2 else 'test'}/cat/{seed:02}.png", smooth(seed))
    put(tmp_path, "train/cat/a.jpg", encoded(smooth(11, 50), "JPEG", quality=50))
    put(tmp_path, "test/cat/b.jpg", encoded((0.7 * smooth(21) + 40).astype(np.uint8), "JPEG"))
    listing = ImageFolder().listed(tmp_path, pytest.fail)
    found, seen = listing.tree, survey(listing, AS_DECLARED)
    splits = [name.partition("/")[0] for name in found.names]
    alike = near(seen, splits)
    named = [
        [(found.names[pair.one], found.names[pair.other]) for pair in some] for some in (alike.across, alike.within)
    ]
    assert named == [[("test/cat/b.jpg", "train/cat/21.png")], [("train/cat/a.jpg", "train/cat/11.png")]]
    assert (alike.looked, alike.total) == (62, 62)
    assert near(seen, splits, seconds=0).looked == 0


def test_the_sheet_shows_a_line_a_class_then_pairs_then_the_unreadable(tmp_path, capsys):
    source = tree(tmp_path / "source")
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    checked(capsys, source, "--sheet", plain)
    copied("train/cat/00.png", "test/cat/x.png")(source)
    put(source, "train/dog/01.png", b"no image")
    _, said = checked(capsys, packed(source, tmp_path / "a.zip"), "--sheet", full)
    assert f"written: {full}\n" in said
    before, after = Image.open(plain), Image.open(full)
    line = (before.height - 8) // 2
    assert before.width == after.width == 8 + 4 * (128 + 8)
    assert after.height == 8 + 4 * line  # one of pairs and one of the unreadable were added
    pair = [np.asarray(after)[8 + 2 * line : 8 + 2 * line + 128, left : left + 128] for left in (8, 8 + 136)]
    assert np.array_equal(*pair)
    assert pair[0].std() > 20
    assert np.asarray(after)[8 + 3 * line + 60, 60].tolist() == [225] * 3


def test_mistakes_are_reported_before_anything_is_read(tmp_path, capsys, monkeypatch):
    source = tree(tmp_path / "source")
    for words, expected in (
        ([tmp_path / "nowhere"], "nowhere: No such file"),
        ([source, "--sheet", source / "a.png"], "the file must be outside the image folder"),
        ([source, "--sheet", tmp_path / "a.jpg"], "the file name must end in .png"),
        ([source, "--sheet", tmp_path / "none/a.png"], "none does not exist"),
        ([source, "--run", "none"], "none: run not found"),
        ([source, "--sheets", "x"], "unknown option"),
    ):
        monkeypatch.setattr(sys, "argv", ["labbook", "check", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            labbook.labbook()
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert re.search(f"^(labbook:|  ).*{expected}", printed.err, re.MULTILINE), printed.err
        assert not printed.out


def test_a_damaged_archive_is_a_mistake_that_names_it(tmp_path):
    path = packed(tree(tmp_path / "source"), tmp_path / "a.tar.xz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a\.tar\.xz is damaged or incomplete"):
        main([str(path)])


def test_usual_confidence_is_the_mean_over_a_label():
    found = usual_confidence(np.array([0, 0, 2]), np.array([0.5, 0.7, 0.9]), 3)
    assert found.tolist() == pytest.approx([0.6, 2.0, 0.9])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        return train(EXPERIMENT.but({"epochs": 3}), Launch(threads=1, mlflow=False), RunInfo("tiny"))


def test_a_run_doubts_the_labels_that_were_planted(trained, tmp_path, capsys):
    images = Digits().load(None).test
    planted = {3, 10, 100, 200}
    for at, (row, target) in enumerate(zip(images.rows[:300], images.targets[:300].tolist(), strict=True)):
        label = (target + 1) % 10 if at in planted else target
        put(tmp_path, f"digits/train/{label}/{at:03}.png", images.pixels[row][..., 0])
        put(tmp_path, f"digits/test/{label}/{at:03}.png", 255 - images.pixels[row][..., 0])
    put(tmp_path, "digits/train/x/a.png", noise(0))
    sheet = tmp_path / "sheet.png"
    main([str(tmp_path / "digits"), "--run", str(trained.folder), "--all", "--sheet", str(sheet)])
    said = capsys.readouterr().out
    doubted = re.findall(r"^    train/(\d)/(\d+)\.png: \1, predicted (\d) \((\d+\.\d)%\)$", said, re.MULTILINE)
    truth = {int(at): (label, str(images.targets[int(at)])) for label, at, _, _ in doubted}
    found = {at for at in truth if at in planted}
    assert len(found) >= 3, said
    assert all(says == truth[int(at)][1] for _, at, says, _ in doubted if int(at) in planted)
    assert len(doubted) <= 8
    confidences = [float(line[3]) for line in doubted]
    assert confidences == sorted(confidences, reverse=True)
    assert "it misses suspect labels among the images that" in said
    assert f"{trained.id} was not trained on these classes, whose labels were not checked\n    x\n" in said
    assert sheet.exists()


def test_runs_that_cannot_judge_are_refused(trained, tmp_path):
    source = tree(tmp_path / "source")
    with pytest.raises(UserError, match="it was trained on none of these classes; its classes are 0, 1, 2"):
        main([str(source), "--run", str(trained.folder)])
    other = tmp_path / "run"
    shutil.copytree(trained.folder, other)
    (other / "artifacts" / WEIGHTS).unlink()
    with pytest.raises(UserError, match="has no saved weights"):
        main([str(source), "--run", str(other)])


def test_the_classes_are_listed_in_their_order(tmp_path, capsys):
    _, said = checked(capsys, tree(tmp_path / "few", splits=("Training", "Testing")))
    assert "classes, in their order: cat, dog\n" in said
    many = tree(tmp_path / "many", classes=[f"c{n:02}" for n in range(40)], splits=("",), each=1)
    _, said = checked(capsys, many)
    assert "classes, in their order: c00, c01, c02, c03, c04, c05, c06, c07, c08, ..., c38, c39\n" in said


def test_a_class_named_like_a_missing_label_is_reported(tmp_path, capsys):
    _, said = checked(capsys, tree(tmp_path / "source", classes=("cat", "nan")))
    assert "warning: names of classes that usually stand for a missing label" in said


def test_images_without_contrast_are_reported_and_what_would_restore_it(tmp_path, capsys):
    source = tree(tmp_path / "source")
    drawn = np.zeros((16, 16, 4), np.uint8)
    drawn[..., :3], drawn[4:12, 4:12, 3] = 255, 255
    put(source, "train/cat/clear.png", _saved(Image.fromarray(drawn), "PNG"))
    put(source, "train/cat/gray.png", np.full((16, 16, 3), 90, np.uint8))
    put(source, "train/cat/deep.png", _saved(Image.fromarray((noise(3)[..., 0] * 16.0).astype(np.uint16)), "PNG"))
    _, said = checked(capsys, source)
    clear = "1 image of a single color on a white background; if they are drawn in white, use --data.background black"
    assert f"warning: {clear}\n    train/cat/clear.png\n" in said
    assert "warning: 1 image of a single color; look at them\n    train/cat/gray.png\n" in said
    assert re.search(
        "warning: 1 16-bit image with values up to 4,0.* keeps 16 gray levels; use --data.max_value 4095", said
    )
    _, said = checked(capsys, source, "--data.background", "black")
    assert "on a white background" not in said
    with pytest.raises(UserError, match=r"--data\.backgroun: unknown option; did you mean --data\.background"):
        main([str(source), "--data.backgroun=black"])


def test_a_table_is_checked(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    lines = []
    for number in range(8):
        put(tmp_path, f"images/{number}.png", noise(number))
        lines.append(f"images/{number}.png,{('cat', 'dog')[number % 2]}")
    put(tmp_path, "images/8.png", (tmp_path / "images/0.png").read_bytes())
    put(tmp_path, "images/9.png", b"no image")
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["path,kind", *lines, "images/8.png,dog", "images/9.png,dog", "images/no.png,dog"]))
    status, said = checked(capsys, path, "--data.label_column", "kind")
    assert status == 1
    assert "10 images, 2 classes" in said
    assert "ImageTable would reject these images:\n    row 11: images/no.png does not exist\n" in said
    assert (
        "1 image in more than one class; keep only the copy in the correct class\n    images/0.png = images/8.png\n"
        in said
    )
    assert "images/9.png: not an image but text" in said


def test_packed_sets_are_checked(tmp_path, capsys):
    pytest.importorskip("h5py")
    import h5py

    pixels = np.stack([noise(seed, 16, 16) for seed in range(8)])
    pixels[5] = pixels[0]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"], file["labels"] = pixels, np.arange(8) % 2
    status, said = checked(capsys, tmp_path / "a.h5")
    assert status == 1
    assert "8 images, 2 classes" in said
    assert "all/00000000 = all/00000005" in said
    shards = tmp_path / "shards"
    shards.mkdir()
    for split, first in (("train", 0), ("test", 7)):  # the last picture of train is the first of test
        with tarfile.open(shards / f"{split}.tar", "w") as tar:
            for number in range(first, first + 8):
                for kind, content in (("png", encoded(noise(number))), ("cls", str(number % 2).encode())):
                    member = tarfile.TarInfo(f"{number}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    status, said = checked(capsys, shards)
    assert status == 1
    assert "test.tar/7.png = train.tar/7.png" in said


def test_a_declared_range_is_taken_into_account(tmp_path, capsys):
    source = tree(tmp_path / "source")
    deep = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    put(source, "train/cat/deep.png", _saved(Image.fromarray(deep), "PNG"))
    _, said = checked(capsys, source, "--data.max_value", "4095")
    assert "gray levels" not in said
    _, said = checked(capsys, source, "--data.max_value", "1023")
    assert "warning: 1 16-bit image with values above --data.max_value 1023, which become white" in said
    for words, message in (
        (["--data.size"], "a value is missing"),
        (["--data.size=8", "--data.size=9"], "given twice"),
    ):
        with pytest.raises(UserError, match=rf"--data\.size: {message}"):
            main([str(source), *words])


def test_what_another_data_set_would_read_is_advised(tmp_path, capsys):
    put(tmp_path, "flat/images/1.png", noise(1))
    (tmp_path / "flat/labels.csv").write_text("path,label\nimages/1.png,cat\n")
    _, said = checked(capsys, tmp_path / "flat")
    assert "is the only class; classification requires at least two; if labels.csv lists the images, use it" in said
    with pytest.raises(DataError, match="to read it, add --data ImageTable"):
        ImageFolder().load(tmp_path / "flat/labels.csv")
    os.mkfifo(tmp_path / "a.h5")
    with pytest.raises(UserError, match="is not a regular file"):
        main([str(tmp_path / "a.h5")])

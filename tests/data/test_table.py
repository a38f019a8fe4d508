"""Tables of images and labels: what is read, how splits are drawn, and what is refused."""

import csv
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from core.common.errors import DataError, UserError
from core.launch import Launch
from core.loading.folds import Fold
from core.loading.sampling import ImageWeighted
from core.loading.stratify import held_out
from core.training.assemble import assemble
from data import ImageFolder, ImageTable
from data.reading import columns, ingest, tables
from data.reading.decode import decode
from experiments.tiny import EXPERIMENT
from tests.support.samples import encoded, noise, tree


def images(folder, count):
    """Names of so many PNG files below images/."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number:02}.png" for number in range(count)]
    for seed, name in enumerate(names):
        (folder / name).write_bytes(encoded(noise(seed, 16, 16)))
    return names


def written(path, header, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def table(folder, count=20, header=("path", "label"), labels=("cat", "dog"), **columns):
    names = images(folder, count)
    rows = [[name, labels[i % len(labels)]] for i, name in enumerate(names)]
    for column in columns.values():
        for row, value in zip(rows, column, strict=True):
            row.append(value)
    return written(folder / "table.csv", [*header, *columns], rows)


def loaded(root, **fields):
    return ImageTable(size=16, **fields).load(root)


def complaint(root, **fields):
    with pytest.raises(DataError) as caught:
        loaded(root, **fields)
    return "\n".join(caught.value.lines)


def everything(splits):
    parts = [(split, getattr(splits, split)) for split in ("train", "val", "test")]
    return [(row, target, split) for split, part in parts for row, target in zip(part.rows, part.targets, strict=True)]


def test_pixels_and_labels_belong_together_and_splits_are_drawn_by_class(tmp_path):
    path = table(tmp_path, 40)
    splits = loaded(path)
    known = {decode((tmp_path / f"images/{i:02}.png").read_bytes(), "", 16).tobytes(): i % 2 for i in range(40)}
    for part in (splits.train, splits.val, splits.test):
        for row, target in zip(part.rows, part.targets, strict=True):
            assert known[part.pixels[row].tobytes()] == target
    assert splits.classes == ("cat", "dog")
    assert [part.counts(2) for part in (splits.train, splits.val, splits.test)] == [(14, 14), (2, 2), (4, 4)]
    assert (splits.name, splits.source) == ("table", "table.csv: 40 images")


def test_a_parquet_file_a_folder_and_rows_in_another_order_are_the_same_data(tmp_path):
    path = table(tmp_path)
    before = loaded(path)
    assert loaded(tmp_path).digest == before.digest
    header, *rows = csv.reader(path.open())
    written(path, header, rows[::-1])
    assert loaded(path).digest == before.digest
    path.unlink()
    parquet.write_table(pa.table({"path": [r[0] for r in rows], "label": [r[1] for r in rows]}), tmp_path / "a.parquet")
    after = loaded(tmp_path)
    assert after.digest == before.digest
    assert everything(after) == everything(before)


def test_another_label_or_split_or_size_or_content_is_another_digest_and_labels_decode_nothing(tmp_path, monkeypatch):
    path = table(tmp_path, split=["train"] * 12 + ["test"] * 8)
    digests = [loaded(path).digest, ImageTable(size=24).load(path).digest]
    with monkeypatch.context() as patched:
        patched.setattr(ingest, "decoded", lambda *arguments: pytest.fail("decoded again"))
        text = path.read_text()
        path.write_text(text.replace("00.png,cat,train", "00.png,dog,train"))
        digests.append(loaded(path).digest)
        path.write_text(text.replace("00.png,cat,train", "00.png,cat,test"))
        digests.append(loaded(path).digest)
    (tmp_path / "images/03.png").write_bytes(encoded(noise(99, 16, 17)))
    digests.append(loaded(path).digest)
    assert len(set(digests)) == 5


def test_a_table_and_a_folder_of_the_same_files_keep_their_own_labels(tmp_path):
    source = tree(tmp_path / "source", each=5)
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    written(source / "table.csv", ("path", "label"), [(name, "ab"[i % 2]) for i, name in enumerate(names)])
    assert loaded(source).classes == ("a", "b")
    assert ImageFolder(size=16).load(source).classes == ("cat", "dog")


def test_ready_splits_are_used_as_they_are(tmp_path):
    named = ["train"] * 10 + ["validation"] * 4 + ["test"] * 6
    splits = loaded(table(tmp_path, split=named))
    assert (splits.train.rows.tolist(), splits.val.rows.tolist()) == (list(range(10)), list(range(10, 14)))
    drawn = loaded(tmp_path, split_column=None)
    assert len(drawn.test) == 4


def test_groups_are_never_divided(tmp_path):
    groups = [f"patient {i // 4}" for i in range(80)]
    splits = loaded(table(tmp_path, 80, group=groups), val_fraction=0.2)
    where = {}
    for row, _, split in everything(splits):
        where.setdefault(groups[row], set()).add(split)
    assert all(len(found) == 1 for found in where.values())
    assert (len(splits.train), len(splits.val), len(splits.test)) == (52, 12, 16)
    with_test = loaded(table(tmp_path, 80, group=groups, split=["train"] * 60 + ["test"] * 20), val_fraction=0.2)
    assert not {groups[row] for row in with_test.train.rows} & {groups[row] for row in with_test.val.rows}


def test_whole_numbers_are_classes_in_the_order_of_their_values(tmp_path):
    assert loaded(table(tmp_path, labels=("10", "9"))).classes == ("9", "10")
    parquet.write_table(pa.table({"path": images(tmp_path, 20), "label": [10, 9] * 10}), tmp_path / "a.parquet")
    assert loaded(tmp_path / "a.parquet").classes == ("9", "10")
    assert loaded(table(tmp_path, labels=("NA", "None"))).classes == ("NA", "None")
    assert "01 and 1 are the same number" in complaint(table(tmp_path, labels=("1", "01", "2", "3")))
    assert "labels must be integers or class names, not 1.0, 2.0" in complaint(table(tmp_path, labels=("1.0", "2.0")))


def test_columns_may_have_other_names(tmp_path):
    path = table(tmp_path, header=("file", "kind"))
    assert loaded(path, path_column="file", label_column="kind").classes == ("cat", "dog")


def test_a_table_without_a_header_has_numbered_columns(tmp_path):
    expected = loaded(table(tmp_path))
    _, *lines = (tmp_path / "table.csv").read_text().splitlines()
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(lines))
    found = loaded(bare, header=False)
    assert everything(found) == everything(expected)
    assert found.digest == expected.digest
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join(f"{line.partition(',')[2]};x;{line.partition(',')[0]}" for line in lines))
    assert loaded(turned, header=False, path_column="3", label_column="1").digest == expected.digest
    assert "the table has no column 5; the columns are 1, 2 (set it with --data.label_column" in complaint(
        bare, header=False, label_column="5"
    )


def test_images_may_be_in_another_folder_which_paths_do_not_leave(tmp_path):
    (tmp_path / "images").mkdir()
    expected = loaded(table(tmp_path / "images"))
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "table.csv"
    (tmp_path / "images" / "table.csv").rename(path)
    for folder in ("../images", str(tmp_path / "images")):
        assert loaded(path, image_dir=folder).digest == expected.digest
    assert "does not exist" in complaint(path)
    assert "absent is not a folder; --data.image_dir names that of the images" in complaint(path, image_dir="absent")
    path.write_text(path.read_text().replace("\n", "\n../", 1))
    assert "to allow this, set --data.allow_outside true" in complaint(path, image_dir="../images")


def test_everything_wrong_with_a_table_is_reported_at_once(tmp_path):
    names = images(tmp_path, 12)
    for name in names[10:]:
        (tmp_path / name).write_bytes(b"no image")
    rows = [[name, "cat" if i % 2 else "dog", "ab"[i % 2]] for i, name in enumerate(names)]
    rows[3][1], rows[4][2] = "", ""
    rows += [["images/70.png", "cat", "a"], ["images/71.png", "cat", "a"], ["./images/05.png", "cat", "a"]]
    rows += [["", "cat", "a"], ["images", "dog", "a"], ["images/\0.png", "dog", "a"]]
    said = complaint(written(tmp_path / "t.csv", ("path", "label", "group"), rows)).splitlines()
    assert said == [
        f"{tmp_path / 't.csv'}: 8 errors (row 1 is the first below the header):",
        "row 4: the label is missing",
        "row 5: the group is missing",
        "row 13: images/70.png does not exist",
        "row 14: images/71.png does not exist",
        "row 15: images/05.png is also the image of row 6; remove one of the rows",
        "row 16: the path is missing",
        "row 17: images is not a regular file",
        "row 18: 'images/\\x00.png' does not exist",
        f"{tmp_path / 't.csv'}: 2 of 12 images cannot be read",
        "images/10.png: cannot identify image file",
        "images/11.png: cannot identify image file",
        "repair or remove these files",
    ]


def test_every_missing_and_every_unreadable_image_is_listed(tmp_path):
    path = table(tmp_path, 90)
    for name in list((tmp_path / "images").iterdir())[:70]:
        name.write_bytes(b"no image")
    assert complaint(path).count("cannot identify") == 70
    for name in list((tmp_path / "images").iterdir())[1:]:
        name.unlink()
    assert complaint(path).count("does not exist") == 89


def test_a_mistake_of_every_row_is_told_once(tmp_path):
    path = table(tmp_path, 9)
    path.write_text(path.read_text().replace("images/", "pictures/").replace("08.png,cat", "08.png,"))
    assert complaint(path).splitlines()[1:] == [
        "all 9 rows: pictures/00.png does not exist, and likewise in every other row",
        "row 9: the label is missing",
    ]


def test_paths_written_on_windows_are_read(tmp_path):
    path = table(tmp_path)
    expected = loaded(path)
    path.write_text(path.read_text().replace("images/", "images\\"))
    assert everything(loaded(path)) == everything(expected)


@pytest.mark.parametrize("path", ["/etc/x.png", "../x.png", "images/../../x.png", "..\\x.png", "C:\\x.png", "link.png"])
def test_paths_that_lead_out_are_refused_unless_allowed(path, tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "x.png").write_bytes(encoded(noise(90, 16, 16)))
    os.symlink(tmp_path / "x.png", inside / "link.png")
    names = images(inside, 20)
    rows = [[name, "ab"[i % 2]] for i, name in enumerate(names)]
    made = written(inside / "table.csv", ("path", "label"), [*rows, [path, "a"]])
    assert "outside" in complaint(made)
    if path in ("../x.png", "link.png"):
        assert loaded(made, allow_outside=True).source == "table.csv: 21 images"
        written(made, ("path", "label"), [*rows, [str(tmp_path / "x.png"), "a"]])
        assert loaded(made, allow_outside=True).source == "table.csv: 21 images"


def test_one_image_under_two_names_is_reported(tmp_path):
    path = table(tmp_path)
    os.symlink(tmp_path / "images/00.png", tmp_path / "images/link.png")
    path.write_text(path.read_text() + "images/link.png,dog\n")
    assert "row 21: images/link.png is also the image of row 1; remove one" in complaint(path)


@pytest.mark.parametrize("path", ["http://a.b/x.png", "s3://a/x.png", "\\\\server\\x.png", "//server/x", "file:///x"])
def test_what_is_on_another_machine_is_never_read(path, tmp_path):
    made = written(tmp_path / "table.csv", ("path", "label"), [[path, "a"]])
    assert "is not a local file" in complaint(made)
    assert "is not a local file" in complaint(made, allow_outside=True)


REFUSED = {
    "other_name": (("file", "label"), [("images/00.png", "a")], "no column path; the columns are file, label"),
    "spelling": (("path", "lable"), [("images/00.png", "a")], "no column label; did you mean lable?"),
    "split_spelt": (("path", "label", "Splits"), [("images/00.png", "a", "test")], "did you mean Splits?"),
    "twice": (("path", "label", "label"), [("images/00.png", "a", "b")], "2 columns named label"),
    "no_rows": (("path", "label"), [], "has no rows"),
    "one_class": (("path", "label"), [("images/00.png", "a"), ("images/01.png", "a")], "a is the only class"),
    "ragged": (("path", "label"), [("images/00.png", "a", "b")], "not a comma-separated CSV"),
    "split_name": (("path", "label", "split"), [("images/00.png", "a", "fold 1")], "fold 1 is not a split; use train"),
    "no_split": (("path", "label", "split"), [("images/00.png", "a", "")], "the split is missing"),
    "no_test": (("path", "label", "split"), [("images/00.png", "a", "train")], "no row has the split test"),
    "few": (
        ("path", "label"),
        [("images/00.png", "a"), ("images/01.png", "b")],
        "the val split would have no image of a, b",
    ),
    "lacking": (
        ("path", "label", "split"),
        [(f"images/0{i}.png", "ab"[i % 2], "train") for i in range(6)] + [("images/07.png", "a", "test")],
        "the test split would have no image of b",
    ),
    "groups": (
        ("path", "label", "split", "group"),
        [("images/00.png", "a", "train", "x"), ("images/01.png", "b", "test", "x"), ("images/02.png", "b", "test", 3)],
        "group x is in test and train",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_are_refused(case, tmp_path):
    header, rows, expected = REFUSED[case]
    images(tmp_path, 8)
    assert expected in complaint(written(tmp_path / "table.csv", header, rows))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is empty"), (b"path,label\n\xff,a\n", "not UTF-8"), (b"PAR1 broken", "not a Parquet file")],
)
def test_files_that_are_no_tables_are_refused(content, expected, tmp_path):
    path = tmp_path / ("t.parquet" if b"PAR1" in content else "t.csv")
    path.write_bytes(content)
    assert expected in complaint(path)


def test_a_folder_without_a_table_or_with_two_is_refused(tmp_path):
    assert "--root PATH" in complaint(None)
    assert "nowhere" in complaint(tmp_path / "nowhere")
    assert "contains no table" in complaint(tmp_path)
    table(tmp_path)
    (tmp_path / "other.csv").write_text("path,label\n")
    assert "2 tables (other.csv, table.csv); use --root" in complaint(tmp_path)


def test_whole_groups_are_held_out_in_the_proportion_of_every_label():
    random = np.random.default_rng(0)
    has = random.random((3000, 6)) < np.array([0.5, 0.3, 0.1, 0.03, 0.01, 0.002])
    groups = np.repeat(np.arange(1000), 3)
    for given in (None, groups):
        held = held_out(has, given, 0.2, seed=1)
        assert np.allclose(has[held].sum(axis=0), 0.2 * has.sum(axis=0), atol=2.1)
        assert abs(held.mean() - 0.2) < 0.01
        assert not np.array_equal(held, held_out(has, given, 0.2, seed=2))
    assert all(len(set(held[groups == group])) == 1 for group in range(1000))
    rare = np.zeros((100, 2), dtype=bool)
    rare[:2, 0], rare[2:, 1] = True, True
    assert rare[held_out(rare, None, 0.1, seed=0)].any(axis=0).all()


def test_the_groups_of_the_images_travel_with_them(tmp_path):
    groups = [f"patient {i // 4}" for i in range(40)]
    splits = loaded(table(tmp_path, 40, group=groups))
    for part in (splits.train, splits.val, splits.test, splits.limited(3).train, splits.train.together(splits.val)):
        assert part.groups.tolist() == [groups[row] for row in part.rows]
    assert loaded(table(tmp_path / "none", 40)).train.groups is None
    folds = [Fold(folds=3, number=number)(splits).val for number in (1, 2, 3)]
    held = [set(part.groups.tolist()) for part in folds]
    assert sum(map(len, held)) == len(set.union(*held)) == len({*splits.train.groups, *splits.val.groups})


def labels_of(splits):
    parts = (splits.train, splits.val, splits.test)
    return {
        row: [name for name, has in zip(splits.classes, target, strict=True) if has]
        for part in parts
        for row, target in zip(part.rows.tolist(), part.targets, strict=True)
    }


def test_several_labels_are_read_from_text_and_from_lists(tmp_path):
    cells = ["cat|dog", "dog", "", "dog | cat"] * 5
    names = images(tmp_path, 20)
    path = written(tmp_path / "table.csv", ("path", "label"), zip(names, cells, strict=True))
    text = loaded(path, multi_label=True)
    lists = [["dog", "cat"], ["dog"], [], ["cat", "dog"]] * 5
    parquet.write_table(pa.table({"path": names, "label": lists}), tmp_path / "a.parquet")
    listed = loaded(tmp_path / "a.parquet", multi_label=True)
    expected = {row: sorted(lists[row]) for row in range(20)}
    assert labels_of(text) == labels_of(listed) == expected
    assert text.multi_label
    assert text.digest == listed.digest
    groups = [f"g{i // 2}" for i in range(20)]
    written(path, ("path", "label", "group"), zip(names, cells, groups, strict=True))
    grouped = loaded(path, multi_label=True, val_fraction=0.3)
    assert labels_of(grouped) == expected
    rows = [{groups[row] for row in part.rows} for part in (grouped.train, grouped.val, grouped.test)]
    assert not rows[0] & rows[1] | rows[0] & rows[2] | rows[1] & rows[2]


def test_several_labels_are_declared_and_never_guessed(tmp_path):
    rows = [(name, "cat|dog" if i else "cat|cat") for i, name in enumerate(images(tmp_path, 4))]
    path = written(tmp_path / "table.csv", ("path", "label"), rows)
    assert "all 4 rows: cat|cat is more than one label; for multi-label data, set --data.multi_label" in complaint(path)
    assert "row 1: the labels cat, cat contain a label twice" in complaint(path, multi_label=True)
    assert loaded(table(tmp_path, labels=("a|b", "c")), separator=";").classes == ("a|b", "c")
    parquet.write_table(pa.table({"path": images(tmp_path, 2), "label": [["a", "b"], None]}), tmp_path / "a.parquet")
    assert "row 1: ['a', 'b'] is a list of labels; set --data.multi_label true" in complaint(tmp_path / "a.parquet")
    assert "row 2: the label is missing" in complaint(tmp_path / "a.parquet", multi_label=True)
    parquet.write_table(pa.table({"path": images(tmp_path, 2), "label": ["", ""]}), tmp_path / "a.parquet")
    assert "the label is missing" in complaint(tmp_path / "a.parquet", multi_label=True)
    assert "no image has a label" in complaint(
        written(path, ("path", "label"), [(name, "") for name in images(tmp_path, 3)]), multi_label=True
    )


def test_splits_of_a_table_are_recognized_however_they_are_spelled(tmp_path):
    spelled = ["Training"] * 5 + ["train"] * 5 + ["dev set"] * 4 + ["TESTING"] * 6
    splits = loaded(table(tmp_path, split=spelled))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 4, 6)


def test_labels_that_are_probably_one_class_or_none_are_reported(tmp_path, capsys):
    assert loaded(table(tmp_path, 60, labels=("Cat", "cat", "nan", "caf\u00e9", "cafe\u0301"))).classes[0] == "Cat"
    said = capsys.readouterr().err
    assert "warning: table.csv: Cat and cat are 2 classes, but differ only in case" in said
    assert r"'caf\xe9' and 'cafe\u0301' are 2 classes" in said or r"'cafe\u0301' and 'caf\xe9' are 2 classes" in said
    assert "nan is read as the name of a class; remove these images if it means no label" in said
    loaded(table(tmp_path, 60))
    assert "warning" not in capsys.readouterr().err


FORMS = {
    "cr": lambda text: text.replace("\n", "\r"),
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "bom": lambda text: "\ufeff" + text,
    "spaces": lambda text: text.replace("path,label", " path , label "),
}


@pytest.mark.parametrize("form", FORMS)
def test_csv_files_as_other_programs_write_them_are_read(form, tmp_path):
    path = table(tmp_path)
    before = loaded(path).digest
    text = path.read_text()
    path.write_bytes(FORMS[form](text).encode())
    assert loaded(path).digest == before


def test_absolute_paths_inside_the_folder_of_the_table_are_read(tmp_path):
    path = table(tmp_path)
    before = loaded(path).digest
    path.write_text(path.read_text().replace("images/", f"{tmp_path}/images/"))
    assert loaded(path).digest == before


def test_tables_that_would_hang_or_fill_the_memory_are_refused_by_name(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.csv")
    assert "pipe.csv is not a regular file" in complaint(tmp_path / "pipe.csv")
    assert "pipe.csv is not a regular file" in complaint(tmp_path)
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    assert "endless.csv is not a regular file" in complaint(tmp_path / "endless.csv")
    long = ["x" * 10_000_000] * 1000  # 10 GB once expanded
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array(long[:1]))
    parquet.write_table(pa.table({"path": dictionary, "label": ["a", "b"] * 500}), tmp_path / "long.parquet")
    assert "column path has a text of 10,000,000 bytes" in complaint(tmp_path / "long.parquet")
    path = table(tmp_path / "few")
    with monkeypatch.context() as patch:
        patch.setattr(columns, "ROWS_LIMIT", 19)
        assert "table.csv has 20 rows, more than the limit of 19" in complaint(path)
        parquet.write_table(pa.table({"path": ["a"] * 20, "label": ["b"] * 20}), tmp_path / "many.parquet")
        assert "many.parquet has 20 rows, more than the limit of 19" in complaint(tmp_path / "many.parquet")
    monkeypatch.setattr(tables, "BYTES_LIMIT", 100)
    assert "bytes, more than the limit of 100" in complaint(path)
    monkeypatch.undo()
    path.write_text('path,label,"' + "x" * 200_000 + '"\n')
    assert "is not a comma-separated CSV file: field larger than field limit" in complaint(path)
    path.write_text("path,label\n" + "".join(f"images/{n:02}.png,{'7' * 5000}{n % 2}\n" for n in range(20)))
    assert len(loaded(path).classes) == 2


def test_a_table_that_expands_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "COLUMN_LIMIT", 10_000)
    for kind in (pa.string(), pa.large_string()):
        same = pa.array(["images/" + "x" * 100] * 200, kind)
        parquet.write_table(pa.table({"path": same, "label": ["a", "b"] * 100}), tmp_path / "a.parquet")
        assert "column path has 21,400 bytes of text; the limit is 10,000" in complaint(tmp_path / "a.parquet")


def test_a_mistake_of_many_rows_that_an_option_mends_is_told_once(tmp_path):
    path = table(tmp_path, 9, labels=("a|b", "a|b", "c"))
    assert "6 of 9 rows: a|b is more than one label; for multi-label data, set" in complaint(path)
    assert complaint(path).count("more than one label") == 1


# ---- weights


def draws(splits, **changes):
    """How often an image of the training split comes in 40 epochs, by row of the store."""
    experiment = EXPERIMENT.but({"sampling": ImageWeighted(), "batch_size": 4, "augment": ()} | changes)
    parts = assemble(experiment, splits, Launch(device="cpu"))
    for held in (splits.val, splits.test):  # the others come once, in their order
        assert parts.held_out(held).plan.order(0).tolist() == list(range(len(held)))
    drawn = np.concatenate([parts.train.plan.order(epoch) for epoch in range(40)])
    return np.bincount(splits.train.rows[drawn], minlength=40)


def test_images_are_drawn_by_the_weights_of_a_column(tmp_path):
    path = table(tmp_path, 40, importance=[0, 1, 1, 8] * 10)
    splits = loaded(path, weight_column="importance")
    expected = np.array([0, 1, 1, 8] * 10)
    for images in (splits.train, splits.val, splits.test):
        assert np.array_equal(images.weights, expected[images.rows])
    found = draws(splits)
    assert not found[expected == 0].any()
    ratio = found[expected == 8].sum() / found[expected == 1].sum() / (expected[splits.train.rows] == 8).sum()
    assert ratio * (expected[splits.train.rows] == 1).sum() == pytest.approx(8, rel=0.3)
    fold = Fold(folds=2)(splits).train
    assert np.array_equal(fold.weights, expected[fold.rows])
    assert loaded(path).digest != splits.digest  # the weights are part of the data
    with pytest.raises(UserError, match=r"ImageWeighted needs a weight for each image; set data\.weight_column"):
        draws(loaded(path))


def test_weights_are_of_the_training_images_alone_and_multi_label_ones_have_them(tmp_path):
    split = (["train"] * 6 + ["val"] * 2 + ["test"] * 2) * 2
    path = table(tmp_path, split=split, weight=[1 if one == "train" else "" for one in split])
    splits = loaded(path, weight_column="weight", multi_label=True)
    assert splits.train.weights.tolist() == [1] * 12
    assert np.isnan(splits.val.weights).all()
    assert draws(splits, loss="BinaryCrossEntropy", monitor="val/map").sum() == 480
    fold = Fold(folds=8, number=3)(splits)
    assert len(fold.train) == 14
    with pytest.raises(UserError, match=r"[234] of 14 training images have no weight"):
        draws(fold, loss="BinaryCrossEntropy", monitor="val/map")


def test_what_is_wrong_with_weights_is_said_with_their_rows(tmp_path):
    path = table(tmp_path, weight=[1, -2, "", "heavy", "nan", "inf"] + [1] * 14)
    assert complaint(path, weight_column="weight").splitlines()[1:] == [
        "row 2: weight: -2 is negative",
        "row 3: the weight is missing",
        "row 4: weight: heavy is not a number",
        "row 5: weight: nan is not a finite number",
        "row 6: weight: inf is not a finite number",
    ]
    assert str(path) in complaint(path, weight_column="weight")
    assert "no column wait; did you mean weight" in complaint(path, weight_column="wait")
    path = table(tmp_path, split=(["train"] * 8 + ["test"] * 2) * 2, weight=([0] * 8 + [1] * 2) * 2)
    assert "the weights of all images for training are 0" in complaint(path, weight_column="weight")
    cells = {"path": images(tmp_path, 4), "label": list("abab"), "weight": [1.5, None, float("nan"), 2.0]}
    parquet.write_table(pa.table(cells), tmp_path / "w.parquet")
    said = complaint(tmp_path / "w.parquet", weight_column="weight")
    assert "row 2: the weight is missing" in said
    assert "row 3: weight: nan is not a finite number" in said

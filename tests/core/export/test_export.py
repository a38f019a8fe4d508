"""labbook export: what leaves labbook answers as the run does, or it does not leave."""

import csv
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from core.catalogue import import_data
from core.cli.benchmark import main as benchmark_verb
from core.cli.export import main as export_verb
from core.cli.report import report
from core.common.errors import UserError
from core.export import export as exporting
from core.export import formats, latency, measured, onnx_engine
from core.export.export import Plan, export, source_of
from core.export.formats import EXPORTS, FORMATS, chosen, facts_of
from core.export.kept import on_record
from core.export.latency import Latency
from core.export.script import answers as script_answers
from core.launch import Launch
from core.models import Model
from core.record.run import EXPORT
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.runs.trained import Run, load
from core.tracking.api import NoMirror
from data import ImageFolder
from data.reading.decode import Conversion, decode
from data.reading.frame import Frame
from experiments.tiny import EXPERIMENT
from tests.support.golden import saved
from tests.support.networks import Looks
from tests.support.runs import images
from tests.support.samples import tree

QUIET = Launch(mlflow=False, threads=1)
SMALL = EXPERIMENT.but({"limit": 200, "epochs": 1})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A home with a run of gray images, and one of colored photographs of two kinds."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        gray = train(SMALL.but({"tta": "flip"}), QUIET, "tiny", mirror=NoMirror())
        root = tree(tmp_path_factory.mktemp("photographs") / "data", each=10, size=(40, 30))
        colored = SMALL.but({"data": ImageFolder(size=16, max_value=4095), "normalize": "image_channels"})
        color = train(colored, Launch(mlflow=False, threads=1, root=root), "tiny", mirror=NoMirror())
    return home, gray.id, color.id


@pytest.fixture
def gray(recorded, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(recorded[0]))
    return load(recorded[1])


@pytest.fixture
def color(recorded, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(recorded[0]))
    return load(recorded[2])


@pytest.fixture(autouse=True, scope="module")
def traced_once():
    """torch.export and torch.onnx trace a run once for all tests; `Source` shares both in the same way."""
    programs, trace = {}, formats.exported

    def exported(run, network=None):
        if run.id not in programs:
            programs[run.id] = trace(run, network)
        return programs[run.id]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "exported", exported)
        patch.setattr(onnx_engine, "convert", cache(onnx_engine.convert))
        yield


@pytest.fixture(autouse=True)
def any_speed(monkeypatch):
    """How fast this machine is at the moment decides nothing."""
    monkeypatch.setattr(measured, "SLOWER", 0.0)
    monkeypatch.setattr(latency, "CALLS", 20)


def made(run, names, folder, **plan):
    conversion = import_data("data.predict.conversion")
    splits = run.splits(Launch.read(run.record["launch"]))
    formats = [FORMATS[name] for name in names]
    plan = Plan(formats, folder, seconds=0.0, **plan)
    return export(run, splits, conversion.decoder(run), conversion.facts(run), plan, lambda text: None)


def alone(folder, *words, without=("torch", "core", "mlflow"), unread=()):
    """What the script of an export prints where these packages cannot be imported. unread: files that it names."""
    blocked = folder / "without"
    blocked.mkdir(exist_ok=True)
    for name in without:
        (blocked / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    environment = os.environ | {"PYTHONPATH": str(blocked)}
    done = subprocess.run([sys.executable, "predict.py", *words], cwd=folder, env=environment, capture_output=True)
    said = done.stderr.decode()
    assert (done.returncode, [line.partition(":")[0] for line in said.splitlines()]) == (int(bool(unread)), [*unread])
    return [line.split(",") for line in done.stdout.decode().splitlines()]


@pytest.mark.parametrize(
    ("which", "names"), [("gray", ["onnx", "openvino", "pt2", "safetensors"]), ("color", ["openvino"])]
)
def test_every_format_answers_as_the_run_does(which, names, request, tmp_path):
    run = request.getfixturevalue(which)
    found = made(run, names, tmp_path)
    assert [one.name for one in found.formats if not one.refused] == names
    for one in found.formats:
        assert one.golden < 1e-4
        assert one.same
        assert (one.val.broken, one.val.repaired) == (0, 0)
        assert one.test == one.eager_test == pytest.approx(run.metrics["test/accuracy"])
        facts = facts_of(tmp_path / one.name)
        assert facts["run"] == run.id
        assert facts["classes"] == run.record["data"]["classes"]
        assert facts["measured"]["test"] == one.test
    some = images(run, 5)
    for name in set(names) - {"safetensors"}:
        answers = FORMATS[name].opened(tmp_path / name, 1, None)(some)
        np.testing.assert_allclose(answers, run.predict(some), atol=1e-5)
    record = json.loads(run.artifact(EXPORT).read_text())
    assert [each["name"] for each in record["formats"]] == names


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_script_needs_neither_torch_nor_labbook(name, color, tmp_path):
    made(color, [name], tmp_path)
    folder = tmp_path / name
    expected = json.loads((folder / "golden" / "expected.json").read_text())
    assert len(expected) == 16
    for path, label, probability in alone(folder, *(f"golden/{file}" for file in expected)):
        row = np.array(expected[Path(path).name])
        assert label == color.record["data"]["classes"][row.argmax()]
        assert float(probability) == pytest.approx(row.max(), abs=1e-4)
    assert (
        len(alone(folder, "missing.jpg", "predict.py", f"golden/{min(expected)}", unread=["missing.jpg", "predict.py"]))
        == 1
    )


FRAMES = [(16, 16), (16, 24, "bicubic"), (24, 9, "nearest"), (16, 16, "bilinear", 20), (12, 12, "bicubic", 40)]
MODES = st.sampled_from(["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
KINDS = {
    "RGB": ("PNG", "JPEG", "WEBP", "BMP"), "L": ("PNG", "JPEG"), "1": ("PNG",), "P": ("PNG", "GIF"), "RGBA": ("PNG",),
    "LA": ("PNG",), "CMYK": ("JPEG", "TIFF"), "I;16": ("PNG", "TIFF"),
}  # fmt: skip


@pytest.fixture(scope="module")
def script(recorded, tmp_path_factory):
    """The functions of an exported script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(recorded[0]))
        run = load(recorded[2])
        folder = tmp_path_factory.mktemp("exported")
        made(run, ["onnx"], folder)
        names = {"__name__": "predict", "__file__": str(folder / "onnx" / "predict.py")}
        exec((folder / "onnx" / "predict.py").read_text(), names)
        yield names, folder


@settings(max_examples=150, deadline=None)
@given(MODES, st.integers(1, 200), st.integers(1, 200), st.integers(1, 8), st.integers(0, 2**32 - 1), st.data())
def test_the_script_reads_odd_files_as_labbook_does(script, mode, width, height, turned, seed, data):
    names, folder = script
    frame = Frame(*data.draw(st.sampled_from(FRAMES)))  # as if the run had declared it
    names["HEIGHT"], names["WIDTH"], names["SHORT"] = frame.height, frame.width, frame.resize_size
    names["FILTER"], names["AMPLE"] = Image.Resampling[frame.interpolation.upper()], frame.ample
    kind = data.draw(st.sampled_from(KINDS[mode]))
    rng = np.random.default_rng(seed)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 6000, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    content = saved(image, kind, **options)
    path = folder / "odd"
    path.write_bytes(content)
    np.testing.assert_array_equal(names["read"](path), decode(content, "odd", frame, Conversion(max_value=4095)))


def odd_file(seed):
    """(name, content) of an image of a random kind, size and orientation."""
    rng = np.random.default_rng(seed)
    mode = sorted(KINDS)[seed % len(KINDS)]
    kind = KINDS[mode][int(rng.integers(len(KINDS[mode])))]
    width, height = (int(side) for side in rng.integers(1, 400, 2))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 6000, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(1, 9))
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    return f"{seed:03}.{kind.lower()}", saved(image, kind, **options)


@pytest.mark.slow
def test_three_hundred_odd_files_have_the_same_answers_in_every_engine(color, tmp_path):
    made(color, ["onnx", "openvino", "pt2"], tmp_path / "to")
    paths = []
    for name, content in map(odd_file, range(300)):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    expected = color.predict(paths)
    for name in ("onnx", "openvino", "pt2"):
        apart = np.abs(script_answers(tmp_path / "to" / name, paths) - expected).max()
        print(f"{name}: largest difference of a probability over 300 odd files: {apart:.1e}")
        assert apart < 1e-3


def test_int8_has_to_be_shown_on_enough_images(gray, tmp_path):
    for one in made(gray, ["onnx-int8", "openvino-int8"], tmp_path, at_most=0.5).formats:
        (reason,) = measured.reasons("int8", one.golden, one.val, one.same, one.latency, 0.002)
        assert "it takes 1,917 images to show a loss below 0.2" in reason
        assert not one.refused
        assert one.size < 200_000
        assert one.eager_test is not None
        assert facts_of(tmp_path / one.name)["precision"] == "int8"


def test_int8_without_calibration_leaves_no_layer_in_float(color, tmp_path):
    (one,) = made(color, ["onnx-int8-dynamic"], tmp_path, at_most=0.99).formats
    assert not one.refused
    assert one.size < 200_000
    assert facts_of(tmp_path / one.name)["precision"] == "int8"
    nodes = {node.op_type for node in onnx.load(tmp_path / one.name / "model.onnx").graph.node}
    assert {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"} <= nodes
    assert not {"Conv", "MatMul", "Gemm"} & nodes


def test_what_is_slower_than_eager_is_refused_or_kept_with_the_reason(gray, tmp_path, monkeypatch, capsys):
    def slow(engines, *_):
        return {name: {1: Latency(1, 1, 1, 1.0 if name == "eager" else 0.4, 20)} for name in engines}

    monkeypatch.setattr(latency, "measure", slow)
    monkeypatch.setattr(measured, "SLOWER", 0.95)
    words = [gray.id, "--to", "onnx,safetensors", "--dir", str(tmp_path / "to")]
    assert export_verb(words) == 1
    said = capsys.readouterr()
    assert "refused: onnx: slower than eager PyTorch: 0.40x at batch 1" in said.err
    assert sorted(os.listdir(tmp_path / "to")) == ["safetensors"]
    assert export_verb([*words, "--anyway"]) == 1
    page = report(gray, Launch.read(gray.record["launch"])).read_text()
    assert page.index("<h2>Exports</h2>") < page.index("0.40x") < page.index("<h2>Cost</h2>")
    assert "slower than eager" in facts_of(tmp_path / "to" / "onnx")["measured"]["refused"][0]


def test_a_disk_that_fills_up_leaves_the_earlier_export(gray, tmp_path, monkeypatch):
    folder = tmp_path / "to"
    (folder / ".export-killed").mkdir(parents=True)
    made(gray, ["onnx"], folder)
    assert os.listdir(folder) == ["onnx"]  # and nothing of an export that was killed
    before = (folder / "onnx" / "model.onnx").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    monkeypatch.setattr(exporting, "_write", full)
    with pytest.raises(UserError, match="No space left on device; nothing was replaced"):
        export_verb([gray.id, "--dir", str(folder)])
    assert os.listdir(folder) == ["onnx"]
    assert (folder / "onnx" / "model.onnx").read_bytes() == before


class Bessel(Model):
    """It uses an operator that ONNX lacks."""

    def network(self, context):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, len(context.classes)), Curved())


class Curved(nn.Module):
    def forward(self, x):
        return x if self.training else torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Bessel(), r"ONNX cannot express .*: it lacks the operator prims.bessel_j0, which the layer \S*2 uses"),
        (Looks(), r"data-dependent.*networks.py, line \d+: return \(self.scale if x.sum\(\) > 0"),
    ],
    ids=["operator", "code"],
)  # fmt: skip
def test_what_cannot_be_exported_is_named(model, complaint, home, tmp_path):
    run = train(SMALL.but({"model": model, "augment": ()}), QUIET, mirror=NoMirror())
    with pytest.raises(UserError, match=complaint) as caught:
        made(run, ["onnx"], tmp_path)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("engines", "lower", "complaint"),
    [
        (["onnz"], [], "onnz: unknown format; did you mean onnx"),
        (["tensorrt"], [], "trtexec"),
        (["pt2"], ["int8"], "--int8: none of pt2 has it; add onnx, openvino to --to"),
        (["openvino"], ["int8-dynamic"], "--int8-dynamic: none of openvino has it; add onnx to --to"),
    ],
    ids=["spelling", "tensorrt", "no_int8", "no_dynamic"],
)
def test_unknown_formats_are_refused(engines, lower, complaint):
    with pytest.raises(UserError, match=complaint):
        chosen(engines, lower)


def test_lower_precisions_go_to_the_engines_that_have_them():
    found = [each.name for each in chosen(["onnx", "openvino", "onnx"], ["int8", "bf16", "int8-dynamic"])]
    assert found == ["onnx", "onnx-int8", "onnx-int8-dynamic", "openvino", "openvino-int8", "openvino-bf16"]


def test_a_damaged_export_and_another_runs_are_refused(gray, color, tmp_path):
    from core.export.register import _format

    made(gray, ["onnx", "openvino"], tmp_path)
    (tmp_path / "onnx" / "model.d").mkdir()  # no file of the model
    assert _format(gray, tmp_path / "onnx").name == "onnx"
    with pytest.raises(UserError, match=f"is an export of {gray.id}, not of {color.id}"):
        _format(color, tmp_path / "onnx")
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weights.raw_data = bytes(len(weights.raw_data))
    onnx.save(model, tmp_path / "onnx" / "model.onnx")
    changed = f"is not what labbook export recorded: its files have changed since; labbook export {gray.id} writes it"
    with pytest.raises(UserError, match=changed):
        _format(gray, tmp_path / "onnx")
    (tmp_path / "openvino" / "model.onnx").write_bytes(b"another")  # which of the two would be served?
    with pytest.raises(UserError, match="damaged one"):
        _format(gray, tmp_path / "openvino")
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="no export of labbook, or a damaged one"):
        facts_of(tmp_path / "onnx")
    (tmp_path / "openvino" / "model.onnx").unlink()
    (tmp_path / "openvino" / "model.bin").unlink()
    with pytest.raises(UserError, match=r"damaged one: (?!Exception from)"):
        facts_of(tmp_path / "openvino")
    (tmp_path / "openvino" / "model.xml").rename(tmp_path / "openvino" / "model.bin")
    with pytest.raises(UserError, match=r"holds no export \(model\.onnx, model\.xml, "):
        facts_of(tmp_path / "openvino")
    with pytest.raises(UserError, match="holds no export"):
        facts_of(tmp_path)
    (tmp_path / "newer").mkdir()
    FORMATS["safetensors"].write(nn.Linear(1, 1), tmp_path / "newer", json.dumps({"run": color.id, "format": "new"}))
    with pytest.raises(UserError, match="damaged one: unknown format new"):
        facts_of(tmp_path / "newer")


def test_a_damaged_program_is_one_line_without_the_tracebacks_of_torch(gray, tmp_path, capfd):
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(UserError, match="no export of labbook, or a damaged one"):
        facts_of(tmp_path)
    assert capfd.readouterr().err == ""


def test_a_later_call_keeps_the_measurements_of_the_exports_that_are_still_there(gray, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    made(gray, ["onnx", "safetensors"], one)
    made(gray, ["onnx"], two)
    shutil.rmtree(one / "safetensors")
    last = [*made(gray, ["openvino"], one).formats, *made(gray, ["onnx"], one).formats]
    mine = [each for each in on_record(gray) if Path(each.folder).parent == tmp_path]
    assert [(Path(each.folder).name, each.name) for each in mine] == [
        ("two", "onnx"),
        ("one", "openvino"),
        ("one", "onnx"),
    ]
    assert mine[1:] == last
    answers, times = json.loads(gray.artifact(EXPORT).read_text())["tables"]
    assert [row[0] for row in answers][-3:] == ["onnx (earlier)", "openvino", "onnx"]
    assert {"eager", "onnx (earlier)", "openvino", "onnx"} <= {row[0] for row in times}


def test_a_kill_between_the_two_renames_does_not_lose_the_earlier_export(tmp_path):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_text("earlier")
    new = tmp_path / f"{exporting.SCRATCH}killed" / "onnx"
    new.mkdir(parents=True)
    if not (child := os.fork()):
        os.environ["LABBOOK_FAILPOINT"] = "export moved away"
        exporting._move(new, tmp_path / "onnx")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "onnx").exists()
    with exporting._scratch(tmp_path):
        assert (tmp_path / "onnx" / "model.onnx").read_text() == "earlier"
    assert not list(tmp_path.glob(f"{exporting.SCRATCH}*"))


def test_parents_are_refused_by_name(home):
    parent = train_seeds(SMALL.but({"limit": 100}), 2, QUIET).parent
    for verb in (export_verb, benchmark_verb):
        with pytest.raises(UserError, match=f"{parent.id} is the parent of other runs"):
            verb([parent.id])


def test_the_verb_benchmark_prints_every_engine(gray, capsys):
    assert benchmark_verb([gray.id, "--engines", "onnx,pt2", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    for name in ("eager", "onnx", "pt2"):
        assert said.count(f" {name} ") == 2
    assert not (Run(gray.folder).folder / EXPORTS / "pt2").exists()


@pytest.mark.parametrize("name", ["openvino", "pt2", "safetensors"])
def test_a_model_that_does_not_fit_onto_the_disk_is_one_message(name, gray, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        kind = FORMATS[name]
        model = kind.make(source_of(gray, None, [kind], 1.0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        with pytest.raises(OSError, match=r"too large|cannot be written"):
            kind.write(model, tmp_path, "{}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, kept)


@pytest.mark.parametrize("at", ["onnx/thesis.txt", "onnx"], ids=["folder", "file"])
def test_files_of_others_are_not_replaced(at, gray, tmp_path):
    (tmp_path / at).parent.mkdir(exist_ok=True)
    (tmp_path / at).write_text("mine")
    with pytest.raises(UserError, match="an export would replace"):
        made(gray, ["onnx"], tmp_path)
    assert (tmp_path / at).read_text() == "mine"


def test_the_script_is_checked_whatever_pythons_settings_are(gray, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    made(gray, ["onnx"], tmp_path)
    (tmp_path / "onnx" / "predict.py").write_text("raise ValueError('not so')")
    with pytest.raises(UserError, match=r"onnx: the script predict\.py beside the model fails: ValueError: not so"):
        script_answers(tmp_path / "onnx", [])


def test_a_name_with_a_comma_is_one_cell(gray, tmp_path):
    plan = Plan([FORMATS["onnx"]], tmp_path, seconds=0.0)
    conversion, splits = import_data("data.predict.conversion"), gray.splits(Launch.read(gray.record["launch"]))
    named = replace(splits, classes=tuple(f'a,"{name}"\n' for name in splits.classes))
    export(gray, named, conversion.decoder(gray), conversion.facts(gray), plan, lambda text: None)
    words = [sys.executable, "predict.py", "golden/gray.jpg"]
    said = subprocess.run(words, cwd=tmp_path / "onnx", capture_output=True, text=True, check=True).stdout
    ((path, name, _),) = csv.reader(said.splitlines(True))
    assert (path, name in named.classes) == ("golden/gray.jpg", True)


def test_the_parent_of_several_runs_is_refused_by_its_runs(home):
    parent = train_seeds(SMALL, 2, QUIET, "tiny").parent
    for verb in (export_verb, benchmark_verb):
        with pytest.raises(UserError, match=r"parent of other runs .*; name one of its runs: \S+, \S+"):
            verb([parent.id])


def test_words_without_a_format_are_refused(gray):
    with pytest.raises(UserError, match="no format is given; choose onnx"):
        export_verb([gray.id, "--to", ","])
    with pytest.raises(UserError, match="no format is given"):
        benchmark_verb([gray.id, "--engines", ""])
    with pytest.raises(UserError, match="weights alone do not run"):
        benchmark_verb([gray.id, "--engines", "onnx, safetensors"])

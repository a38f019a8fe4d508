"""labbook register: what is served is the run's model, by a real server that knows nothing of labbook."""

import contextlib
import json
import os
import pickletools
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import mlflow.onnx
import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from torchvision.models import VisionTransformer

from core.cli.main import labbook as command_line
from core.cli.register import main
from core.common import paths
from core.common.errors import UserError
from core.export.formats import EXPORTS, FORMATS, Source
from core.export.graph import exported, served
from core.export.kept import digest_of, record
from core.export.latency import Latency
from core.export.measured import Measured, lost
from core.export.register import register
from core.launch import Launch
from core.models import Model, Torchvision
from core.models.tta import averaged
from core.record.journal import Journal
from core.record.run import WEIGHTS
from core.runs.train import train
from core.runs.trained import Run, load
from core.tracking import cursor
from core.tracking.api import NoMirror
from core.tracking.client import connect
from core.tracking.destinations import MLFLOW
from core.tracking.follower import Follower
from core.tracking.mlflow_store import MLflow
from data import ImageFolder
from experiments.tiny import EXPERIMENT
from tests.support import mlflow_server
from tests.support.mlflow_server import Server, answers, wait_for
from tests.support.networks import Looks, Undecided
from tests.support.runs import images, rewrite_record
from tests.support.samples import tree

empty_store = mlflow_server.empty_store
SMALL = EXPERIMENT.but({"limit": 64, "epochs": 1})


def mirrored(run):
    """Into MLflow, by this process: another would have to import it all first."""
    follower = Follower(run.folder, MLFLOW.name, MLFLOW.place())
    assert follower.hold()
    while follower.advance(MLflow(client())):
        pass
    follower.let_go(MLflow(client()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A home with one run, on record and in MLflow."""
    home = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_store, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(home)
        mirrored(train(SMALL, Launch(threads=1), "tiny", mirror=NoMirror()))
    return home


@pytest.fixture
def run(trained, home, monkeypatch):
    """The run, in a home that holds what tests before this one have registered."""
    monkeypatch.setenv("LABBOOK_HOME", str(trained))
    return load("tiny")


@pytest.fixture
def twin(run):
    """A copy of the run, to be spoilt. MLflow takes both for the same one."""
    folder = run.folder.with_name(f"twin-{run.id}")
    shutil.copytree(run.folder, folder)
    yield Run(folder)
    shutil.rmtree(folder)


def client():
    return connect(f"sqlite:///{paths.home()}/mlflow.db")


def logged_models():
    experiments = client().search_experiments()
    found = client().search_logged_models([each.experiment_id for each in experiments])
    return {each.model_id for each in found}


@contextlib.contextmanager
def serving(command, folder):
    """The printed command on another port, in a folder and with a path where labbook is not: its address."""
    (folder / "without" / "core").mkdir(parents=True)
    (folder / "without" / "core" / "__init__.py").write_text("raise ImportError('labbook is not here')")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = shlex.split(command)
    words[words.index("5001")] = str(port)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(folder / "without"), "PATH": path}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(["env", *words], cwd=folder, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.poll() is not None or answers(f"{address}/ping"), 90)
        assert server.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        psutil.wait_procs(family, timeout=10)


def ask(address, pixels):
    return post(address, json.dumps({"inputs": pixels.tolist()}))["predictions"]


def post(address, body):
    asked = urllib.request.Request(f"{address}/invocations", body.encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(asked, timeout=60))


def assert_answers(predictions, expected, classes):
    assert [answer["class"] for answer in predictions] == [classes[at] for at in expected.argmax(axis=1)]
    assert all(list(answer["probabilities"]) == classes for answer in predictions)
    found = [list(answer["probabilities"].values()) for answer in predictions]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_printed_serves_the_model_where_labbook_is_not(run, tmp_path, capsys):
    assert main([run.id, "digits"]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"registered: version 1 of digits: {run.id}, weights of epoch 1, test accuracy \d", said)
    assert "at most 64 images of each split" in said
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false" in said
    with serving(re.search(r"serve: (.*)", said)[1], tmp_path) as address:
        for number in (1, 3):
            answers = ask(address, images(run, number))
            assert_answers(answers, run.predict(images(run, number)), run.record["data"]["classes"])
        for wrong in (images(run)[:, :4], images(run) / 255, images(run).astype(int) + 200):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                ask(address, wrong)
        one = images(run, 1).tolist()
        negative, texts = (-images(run, 1).astype(int)).tolist(), images(run, 1).astype(str).tolist()
        table = {"dataframe_split": {"columns": ["a"], "data": [[1]]}}
        inputs = [[], 3, "text", None, [one[0], one[0][:4]], [[[["1"]]]], one[0], negative, texts, {"images": one}]
        bodies = [json.dumps(body) for body in (*({"inputs": each} for each in inputs), table, {"pixels": one}, one)]
        for body in [*bodies, bodies[-1][:-9], "", "{inputs: ["]:
            with pytest.raises(urllib.error.HTTPError, match="400"):
                post(address, body)
        assert len(ask(address, images(run, 300))) == 300  # it still answers
    said = (tmp_path / "log").read_text()
    assert "pixels must be integers from 0 to 255, not fractions" in said
    assert said.count("and neither a table nor named tensors") == 2
    assert "Traceback" not in said


def test_a_version_leads_back_to_its_run(run):
    done = register(run, "led back")
    version = client().get_model_version_by_alias("led back", "champion")
    assert version.version == done.version
    assert version.run_id == cursor.load(run.folder).run_id
    assert version.tags["labbook.run"] == run.id
    assert version.tags["data.digest"] == run.record["data"]["digest"]
    assert float(version.tags["test/accuracy"]) == pytest.approx(run.metrics["test/accuracy"])
    assert version.tags.get("git.commit") == run.record["facts"].get("git.commit")
    assert client().get_run(version.run_id).info.status == "FINISHED"
    outputs = client().get_run(version.run_id).outputs.model_outputs
    assert version.source in [f"models:/{each.model_id}" for each in outputs]


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_an_export_is_registered_and_answers_without_torch(run, name, tmp_path, capsys):
    source = Source(run, served(run))
    folder = run.folder / EXPORTS / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"run": run.id, "format": name, "precision": "fp32"}
    FORMATS[name].write(FORMATS[name].make(source), folder, json.dumps(facts))
    right, quick = np.ones(10, bool), {1: Latency(1, 1, 1, 1, 1)}
    made = Measured(name, 1, 0.0, lost(right, right), True, quick, ())
    record(run, quick, [replace(made, folder=str(folder.parent), digest=digest_of(folder))], {}, "eager")
    mirrored(run)
    assert main([run.id, f"as {name}", "--export", name]) == 0
    version = client().get_model_version_by_alias(f"as {name}", "champion")
    assert version.tags["labbook.format"] == name
    place = client().get_logged_model(version.source.removeprefix("models:/")).artifact_location
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not here')")
    asked = images(run, 70)  # more than are computed at once
    np.save(tmp_path / "asked.npy", asked)
    code = (
        f"import mlflow.pyfunc, numpy, json\nmodel = mlflow.pyfunc.load_model({place!r})\n"
        "print(json.dumps(model.predict(numpy.load('asked.npy'))))"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    answered = json.loads(said.stdout.strip().rpartition("\n")[2])
    assert_answers(answered, run.predict(asked), run.record["data"]["classes"])
    if name == "onnx":
        assert mlflow.onnx.load_model(place).graph.output[0].name == "probabilities"
    with pytest.raises(UserError, match="has no such export"):
        main([run.id, "missing", "--export", "onnx-int8"])


def test_registered_again_it_stays_one_version_and_the_alias_moves(run, capsys):
    first = register(run, "twice")
    main([run.id, "twice", "--alias", "candidate"])
    assert f"registered already: version {first.version} of twice" in capsys.readouterr().out
    assert len(client().search_model_versions("name = 'twice'")) == 1
    assert client().get_registered_model("twice").aliases.keys() == {"champion", "candidate"}


def test_another_run_takes_the_alias_over(run, twin, capsys):
    register(run, "taken over")
    main([str(twin.folder), "taken over"])
    assert "champion points to version 2 (before: version 1)" in capsys.readouterr().out
    assert client().get_model_version_by_alias("taken over", "champion").tags["labbook.run"] == twin.id


def test_nothing_that_is_kept_is_a_pickle(run):
    register(run, "files")
    version = client().get_model_version_by_alias("files", "champion")
    folder = Path(
        client().get_logged_model(version.source.removeprefix("models:/")).artifact_location.removeprefix("file://")
    )
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with zipfile.ZipFile(folder / "artifacts" / "network" / "model.pt2") as program:
        contents |= {name: program.read(name) for name in program.namelist()}
        configs = [json.loads(program.read(name)) for name in program.namelist() if name.endswith("_config.json")]
    assert len(configs) == 2
    assert not any(each["use_pickle"] for config in configs for each in config["config"].values())
    assert not any(_is_pickle(content) for content in contents.values())
    assert not any(name.endswith((".pkl", ".pth", ".pickle")) for name in contents)
    assert "import core" not in contents["served.py"].decode()
    assert "from core" not in contents["served.py"].decode()


def _is_pickle(content):
    """torch.save's zip counts: it holds one. A program that reads to its end, and does anything, is one."""
    if content.startswith(b"PK"):
        return b"data.pkl" in content
    try:
        return content.startswith(b"\x80") and any(pickletools.genops(content))
    except ValueError:
        return False


@pytest.mark.parametrize("tta", ["none", "flip", "flip_shift", "flip_shift_half"])
def test_the_declared_views_are_part_of_what_is_exported(run, tta):
    run.record["declaration"]["tta"] = tta
    program = exported(run).module()
    views = averaged(run.model, tta)
    mean, std = (torch.tensor(run.record["data"][name]) for name in ("mean", "std"))
    for number in (1, 5):
        pixels = torch.from_numpy(images(run, number))
        with torch.inference_mode():
            normalized = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
            torch.testing.assert_close(program(pixels), views(normalized).softmax(dim=1), atol=1e-5, rtol=0)


class TinyTransformer(Model):
    """torchvision's, with two small layers."""

    def network(self, context):
        height, _, _ = context.image_shape
        return VisionTransformer(height, 8, 2, 2, 16, 32, num_classes=len(context.classes))


class Draws(Model):
    """It answers at random."""

    def network(self, context):
        return Restless(len(context.classes))


class Restless(Undecided):
    def forward(self, x):
        return torch.rand(x.shape[0], len(self.scale)) * self.scale


def test_colors_and_transformers_are_exported(tmp_path):
    root = tree(tmp_path / "source", each=5)
    declared = {"data": ImageFolder(size=16), "model": TinyTransformer(), "augment": (), "batch_size": 4}
    run = train(SMALL.but(declared), Launch(threads=1, root=root), mirror=NoMirror())
    assert run.record["data"]["image_shape"] == [16, 16, 3]
    program = exported(load(run.id)).module()
    for number in (1, 4):
        answers = program(torch.from_numpy(images(run, number))).detach()
        np.testing.assert_allclose(answers, run.predict(images(run, number)), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Looks(), "torch.export cannot export Looks: .*data-dependent"),
        (Draws(), "Draws: the exported program returns different probabilities"),
    ],
    ids=["looks", "draws"],
)
def test_a_network_that_cannot_be_exported_is_reported(model, complaint):
    run = train(SMALL.but({"model": model, "augment": ()}), Launch(threads=1), mirror=NoMirror())
    with pytest.raises(UserError, match=complaint) as caught:
        exported(run)
    assert len(caught.value.lines) == 1


def refused(run, name="refused", alias="champion"):
    """The one line that says why; nothing is registered."""
    with pytest.raises(UserError) as caught:
        register(Run(run.folder), name, alias)
    (line,) = caught.value.lines
    assert "\n" not in line
    assert not client().search_registered_models("name = 'refused'")
    return line


def reopened(run, status):
    """As if it had not ended yet, or ended so."""
    journal = run.folder / "journal.jsonl"
    lines = [line for line in journal.read_text().splitlines(True) if '"event":"status"' not in line]
    journal.write_text("".join(lines))
    if status:
        Journal(run.folder).close(status)


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_failed_is_refused(twin, status):
    reopened(twin, status)
    assert re.search(rf"is {status}; `python -m experiments.tiny resume {twin.id}`", refused(twin))


def test_a_run_that_has_not_ended_is_refused(twin):
    reopened(twin, None)
    assert "is interrupted; `python -m" in refused(twin)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import sys, pathlib\nfrom core.record.lock import locked\n"
         f"with locked(pathlib.Path({str(twin.folder)!r})): print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    assert "is still running" in refused(twin)
    holder.communicate()


def test_a_run_without_weights_or_with_damaged_ones_is_refused(twin):
    weights = twin.folder / "artifacts" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged" in refused(twin)
    weights.unlink()
    assert "has no weights (most trials of a search keep none); `python -m" in refused(twin)


@pytest.mark.parametrize("kind", [{"seeds": 2}, {"study": "tiny"}], ids=["seeds", "study"])
def test_a_parent_is_refused_and_those_below_it_named(run, twin, kind):
    child = Run(shutil.copytree(run.folder, run.folder.with_name(f"{run.id[:-4]}ffff")))
    try:
        rewrite_record(twin, kind)
        rewrite_record(child, {"parent": twin.id})
        assert f"choose one of its runs: {child.id}" in refused(twin)
        rewrite_record(child, {"parent": None})
        assert "none of its runs has weights" in refused(twin)
    finally:
        shutil.rmtree(child.folder)


def test_what_mlflow_lacks_is_for_sync(twin):
    cursor.save(twin.folder, replace(cursor.load(twin.folder), journal=0))
    assert "is incomplete in MLflow" in refused(twin)
    (twin.folder / cursor.FILE).unlink()
    assert f"labbook sync {twin.id}" in refused(twin)


def test_a_server_that_is_down_is_reported_at_once(twin, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    mirrored = cursor.load(twin.folder)
    cursor.save(twin.folder, replace(mirrored, tracking_uri="http://127.0.0.1:9"))
    line = refused(twin)
    assert line.startswith("MLflow at http://127.0.0.1:9 does not respond: ")
    assert "secret" not in line


def test_a_store_that_is_damaged_is_reported(twin, tmp_path, monkeypatch):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    cursor.save(twin.folder, replace(cursor.load(twin.folder), tracking_uri=uri))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "labbook sync sends all runs to a new one" in refused(twin)


@pytest.mark.parametrize("name", ["a:b", "a/b", "", "a?b"])
def test_a_name_that_mlflow_refuses_is_refused(run, name):
    assert refused(run, name).startswith(f"NAME {name!r}: ")


@pytest.mark.parametrize("alias", ["a b", "", "latest", "v3", "a@b"])
def test_an_alias_that_mlflow_refuses_is_refused(run, alias):
    assert refused(run, alias=alias).startswith(f"--alias {alias!r}: ")


def test_an_unknown_run_is_reported_as_a_mistake(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["labbook", "register", run.id.replace("tiny", "tinn"), "digits"])
    with pytest.raises(SystemExit) as caught:
        command_line()
    assert caught.value.code == 2
    assert f"run not found in {paths.runs()}; did you mean {run.id}?" in capsys.readouterr().err


def test_a_disk_that_takes_no_model_leaves_nothing_registered(run):
    before = logged_models()
    place = paths.home() / "mlruns" / cursor.load(run.folder).experiment_id / "models"
    place.rename(aside := place.with_name("aside")) if (had := place.exists()) else None
    place.write_text("a file where a folder should be")
    try:
        assert "MLflow at sqlite" in refused(run)
        assert logged_models() == before
    finally:
        place.unlink()
        aside.rename(place) if had else None


def test_a_registry_that_fails_late_has_nothing_half_registered(run, monkeypatch):
    before = logged_models()

    def fail(self, *given):
        raise MlflowException("out of order")

    monkeypatch.setattr(MlflowClient, "log_outputs", fail)
    assert "out of order" in refused(run)
    assert logged_models() == before


@pytest.mark.slow
def test_a_transformer_on_colors_through_a_server_that_keeps_the_artifacts(tmp_path, monkeypatch, capsys):
    """torchvision's ViT-B/16 by name: 86 million parameters, to the server and back."""
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.port}")
        root = tree(tmp_path / "source", each=5)
        model = Torchvision(name="vit_b_16")
        declared = {"data": ImageFolder(size=16), "model": model, "augment": (), "batch_size": 4}
        run = train(SMALL.but(declared), Launch(threads=1, root=root))
        assert main([run.id, "cats and dogs"]) == 0
        with serving(re.search(r"serve: (.*)", capsys.readouterr().out)[1], tmp_path) as address:
            assert_answers(ask(address, images(run)), run.predict(images(run)), ["cat", "dog"])
    finally:
        server.end()

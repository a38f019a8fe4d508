"""The report of a run: what it finds, where the truth was planted; the page; what is refused."""

import io
import json
import math
import re
import signal
import time
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.stats import binomtest
from torch import nn

from core.cli.report import main
from core.common import plots
from core.common.errors import Interrupted, UserError
from core.common.statistics import wilson
from core.inference.network import Network
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.duplicates import near_duplicates
from core.loading.images import Images
from core.loading.normalize import normalizer
from core.record import journal
from core.record.journal import Journal
from core.report import analysis, write
from core.report.calibration import calibration, fitted_temperature
from core.report.cost import cost, energy
from core.report.page import _mlflow
from core.report.predictions import Predictions, predict
from core.report.saliency import activation_maps
from core.report.slices import light, traits, worst_slices
from core.runs import trainer
from core.runs.recorder import RunInfo
from core.runs.resume import interrupted, resume
from core.runs.train import train
from core.runs.trained import Run
from core.tracking import cursor
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support.browser import chromium
from tests.support.runs import rewrite_record

pytestmark = pytest.mark.pictures
CPU = torch.device("cpu")
SHORT = EXPERIMENT.but({"epochs": 1, "limit": 300})
QUIET = Launch(threads=1, mlflow=False)


def images_of(pixels, targets=None):
    return Images(pixels, np.arange(len(pixels)), np.zeros(len(pixels), np.int64) if targets is None else targets)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on record, with its report; tests that change it work on a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        yield train(SHORT, QUIET, RunInfo("tiny", description="Is <this> a question?\n\nMore of it."))


def test_every_training_leaves_a_page_that_fetches_nothing(trained):
    page = (trained.folder / "artifacts" / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "@import" not in page
    assert "Is &lt;this&gt; a question?" in page
    assert trained.id in page
    assert f"{trained.metrics['test/accuracy']:.2%}" in page
    assert trained.record["data"]["digest"] in page
    classes, table = trained.confusion
    wrong = int(table.sum() - table.diagonal().sum())
    assert f"Of 300 test images: {wrong:,} are misclassified." in page
    low, high = wilson(table.diagonal(), table.sum(axis=1))
    for place in range(len(classes)):
        assert f"<td>{low[place]:.2%} to {high[place]:.2%}</td>" in page
    kept = {event["path"] for _, event in journal.read(trained.folder) if event["event"] == "artifact"}
    pictures = {"learning_curves.png", "confusion_matrix.png", "reliability.png", "mistakes.png"}
    assert pictures | {"report.html"} <= kept
    for name in pictures:
        Image.open(trained.folder / "artifacts" / name).verify()


def test_the_page_says_how_to_make_the_run_again_and_where_it_is_in_mlflow(trained):
    page = (trained.folder / "artifacts" / "report.html").read_text()
    started = datetime.fromtimestamp(trained.opening["time"] / 1000, UTC)
    assert f"started {started:%Y-%m-%d %H:%M} UTC" in page
    assert f"<td>{escape(trained.tags['mlflow.source.name'])}</td>" in page
    assert f"<td>{trained.tags.get('git.commit', 'not recorded')}" in page
    assert "in MLflow</a>" not in page
    where = cursor.Record("", experiment_id="3", run_id="abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursor, "load", lambda folder: where)
        patch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@server:80/")
        assert _mlflow(trained) == "http://server:80/#/experiments/3/runs/abc"
        patch.delenv("MLFLOW_TRACKING_URI")
        assert _mlflow(trained) == "http://127.0.0.1:5000/#/experiments/3/runs/abc"


def test_no_label_of_the_curves_reaches_into_another_panel_and_epochs_are_integers(tmp_path, monkeypatch):
    figures = []
    make = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", lambda *size, **more: figures.append(make(*size, **more)) or figures[-1])
    history = [
        {"train/loss": 9e5 / n, "val/loss": 1e5, "train/accuracy": 0.5, "val/accuracy": 0.12345, "lr": 1e-4 + 3e-6 * n}
        for n in (1, 2, 3)
    ]
    plots.learning_curves(history, 1, tmp_path / "curves.png")
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    for left, right in pairwise(figure.axes):
        labels = [label.get_window_extent(renderer) for label in right.get_yticklabels() if label.get_text()]
        assert min(label.x0 for label in labels) > left.get_window_extent(renderer).x1
    assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks())


def test_the_page_fits_a_telephone_and_a_desk(trained):
    """In whatever font there is: a page that is wider than its window shows a second scroll bar."""
    with chromium() as browser:
        for width in (400, 1300):
            page = browser.new_page(viewport={"width": width, "height": 800})
            page.goto(f"file://{trained.folder}/artifacts/report.html")
            for font in ("system-ui", "monospace"):
                page.add_style_tag(content=f"body {{ font-family: {font} !important }}")
                assert page.evaluate("document.documentElement.scrollWidth") == width, font
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert page.get_by_role("heading", name="Most confident errors").is_visible()


def test_a_report_that_fails_takes_nothing_with_it(home, monkeypatch, capsys):
    monkeypatch.setattr(write, "analyze", lambda *arguments: 1 / 0)
    run = train(SHORT.but({"limit": 64}), QUIET, "tiny")
    assert run.status == "FINISHED"
    assert run.tags["report"] == "failed: ZeroDivisionError: division by zero"
    assert f"run labbook report {run.id} to try again" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    before = run.metrics
    capsys.readouterr()
    assert main([run.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": run.id,
        "report": str(run.folder / "artifacts" / "report.html"),
    }
    assert run.status == "FINISHED"
    assert (run.folder / "artifacts" / "report.html").exists()
    assert {name: value for name, value in run.metrics.items() if not name.startswith("report/")} == before


def test_a_run_stopped_in_its_report_is_resumed_and_reported_on(home, monkeypatch):
    def stopped(*arguments):
        raise Interrupted(signal.SIGTERM, "stopped")

    monkeypatch.setattr(write, "analyze", stopped)
    with pytest.raises(Interrupted):
        train(SHORT.but({"limit": 64}), QUIET, "tiny")
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    run = interrupted("tiny")
    assert run.status == "KILLED"
    assert resume(run).status == "FINISHED"
    assert (run.folder / "artifacts" / "report.html").exists()


def test_what_it_may_take_grows_with_the_training(trained, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer, "REPORT_SECONDS", 1e-9)
    monkeypatch.setattr(write, "analyze", lambda network, splits, seconds: asked.append(seconds) or 1 / 0)
    run = train(SHORT.but({"limit": 64}), QUIET, "tiny")
    assert asked[0] == pytest.approx(0.05 * run.seconds, rel=0.01)


@pytest.mark.parametrize("what", ["unknown", "killed", "untested", "parent", "data"])
def test_what_cannot_be_reported_on_is_refused_with_the_reason(home, what, monkeypatch):
    run = train(SHORT.but({"limit": 64}), QUIET, "tiny")
    if what == "unknown":
        expected, word = f"run not found.*{run.id}", run.id[:-1] + "z"
    else:
        word = run.id
    if what == "killed":
        journal_of = Journal(run.folder)
        journal_of.close("KILLED")
        expected = f"{run.id} is KILLED: a report requires a finished run"
    if what == "untested":
        (run.folder / "artifacts" / "confusion_matrix.csv").unlink()
        expected = "has no test results"
    if what in ("parent", "data"):
        changes = {"data": run.record["data"] | {"digest": "other"}}
        rewrite_record(run, changes | ({"seeds": 2} if what == "parent" else {}))
        expected = f"labbook compare {run.id}" if what == "parent" else "the data have changed"
    with pytest.raises(UserError, match=expected):
        main([word])


def test_the_temperature_undoes_what_made_the_network_too_sure():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]  # right as often as they say
    found = fitted_temperature(3 * logits, targets)
    assert found == pytest.approx(3, rel=0.05)
    steps = [F.cross_entropy(3 * logits / (found * factor), targets) for factor in (0.97, 1, 1.03)]
    assert steps[1] < min(steps[0], steps[2])
    before, after = calibration(3 * logits, targets), calibration(3 * logits, targets, found)
    assert before.ece > 0.1 > 0.03 > after.ece
    assert before.count.sum() == 4000


def test_where_all_is_right_no_temperature_is_best():
    assert fitted_temperature(torch.eye(3), torch.arange(3)) is None


@given(st.integers(0, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(counts):
    right, n = counts
    low, high = wilson(np.array(right), np.array(n))
    if n == 0:
        assert (low, high) == (0, 1)
        return
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-12)


class Spot(nn.Module):
    """Class 1 for light in the image, by a convolution and a mean."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.convolution.weight[:] = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
            self.convolution.bias.zero_()

    def forward(self, images):
        return self.relu(self.convolution(images)).mean(dim=(2, 3))


def test_the_map_of_a_cnn_lies_where_the_light_is():
    images = torch.zeros(2, 1, 16, 16)
    images[0, 0, 2:5, 10:13] = images[1, 0, 11:14, 3:6] = 1
    maps = activation_maps(Spot(), images, torch.tensor([1, 1]))
    assert maps.shape == (2, 16, 16)
    for at, (rows, columns) in enumerate([(slice(1, 6), slice(9, 14)), (slice(10, 15), slice(2, 7))]):
        assert maps[at].max() == 1
        assert maps[at, rows, columns].sum() == pytest.approx(maps[at].sum().item())
    nothing = activation_maps(Spot(), images, torch.tensor([0, 0]))
    assert nothing.max() == 0  # nothing speaks for the other class


def test_the_map_of_a_transformer_lies_where_the_patch_is():
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 2, 2, 32, 64, num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def batch(n):
        images, targets, places = 0.1 * torch.randn(n, 3, 16, 16), torch.randint(2, (n,)), torch.randint(4, (n, 2))
        for image, target, (row, column) in zip(images, targets, places.tolist(), strict=True):
            image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 2.0 * target - 1
        return images, targets, places

    for _ in range(60):
        images, targets, _ = batch(64)
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    images, targets, places = batch(64)
    maps = activation_maps(model.eval(), images, targets)
    peaks = F.avg_pool2d(maps[:, None], 4).flatten(1).argmax(dim=1)
    assert (peaks == 4 * places[:, 0] + places[:, 1]).float().mean() > 0.6  # by lot: 0.06


def test_a_network_without_places_has_no_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert activation_maps(model, torch.randn(2, 1, 8, 8), torch.tensor([0, 1])) is None


def test_the_slice_that_was_made_bad_is_the_worst():
    generator = np.random.default_rng(0)
    targets, shades = generator.integers(0, 3, 900), generator.integers(40, 200, 900)
    pixels = np.broadcast_to(shades[:, None, None, None], (900, 4, 4, 1)).astype(np.uint8).copy()
    pixels[:, ::2] += generator.integers(0, 50, (900, 1, 1, 1)).astype(np.uint8)
    right = generator.random(900) < 0.95
    right[(targets == 2) & (shades < 90)] = False
    images = Images(pixels, np.arange(900), targets, areas=generator.integers(100, 10000, 900))
    found = traits(images, np.arange(900), light(pixels))
    assert set(found) == {"brightness", "contrast", "size"}
    worst = worst_slices(targets, right, found, ["a", "b", "c"])[0]
    assert worst.name == "c, dark"
    assert worst.right / worst.count < 0.2
    assert worst.low <= worst.right / worst.count <= worst.high


def natural(n, seed, side=32):
    """Smooth colored noise: unlike each other, as photographs are."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    fine = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * fine).permute(0, 2, 3, 1).to(torch.uint8).numpy()


def jpeg(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def test_planted_near_duplicates_are_found_and_no_others():
    train, test = natural(500, 1), natural(200, 2)
    noise = np.random.default_rng(0).normal(0, 6, (32, 32, 3))
    smaller = Image.fromarray(train[50]).resize((20, 20)).resize((32, 32))
    planted = {
        3: (10, train[10]),
        17: (20, jpeg(train[20], 40)),
        40: (30, (0.7 * train[30] + 40).astype(np.uint8)),
        99: (40, np.clip(train[40] + noise, 0, 255).astype(np.uint8)),
        150: (50, np.asarray(smaller)),
    }
    for place, (_, pixels) in planted.items():
        test[place] = pixels
    found = near_duplicates(images_of(test), images_of(train))
    assert {tuple(pair) for pair in found.pairs.tolist()} == {(at, of) for at, (of, _) in planted.items()}
    assert (found.looked, found.total) == (200, 200)
    assert found.share == pytest.approx(5 / 200)
    assert list(found.alike) == sorted(found.alike, reverse=True)


def test_of_small_images_the_same_ones_alone_count():
    splits = Digits().load(None)
    assert len(near_duplicates(splits.test, splits.train).pairs) == 0
    leaked = splits.test.pixels.copy()
    leaked[splits.test.rows[7]] = splits.train.pixels[splits.train.rows[11]]
    test = Images(leaked, splits.test.rows, splits.test.targets)
    assert near_duplicates(test, splits.train).pairs.tolist() == [[7, 11]]


def test_a_leak_is_an_alarm_on_the_page(trained, monkeypatch):
    page = (trained.folder / "artifacts" / "report.html").read_text()
    assert "None of 300 test images has a near-duplicate in the training split." in page
    assert 'class="alarm"' not in page
    run = train(SHORT.but({"data": Leaking(), "limit": None}), QUIET, "tiny")
    page = (run.folder / "artifacts" / "report.html").read_text()
    assert re.search(r'class="alarm">3 of 359 test images \(0.84%\) have a near-duplicate in the training split', page)
    assert run.metrics["report/near_duplicates"] == 3


class Leaking(Digits):
    """Digits of which three test images stand in train."""

    def load(self, root):
        splits = super().load(root)
        pixels = splits.test.pixels.copy()
        pixels[splits.test.rows[:3]] = pixels[splits.train.rows[:3]]
        return replace(splits, train=replace(splits.train, pixels=pixels), test=replace(splits.test, pixels=pixels))


def test_out_of_time_a_fair_sample_is_asked_and_the_page_says_so(monkeypatch):
    class Echo(nn.Module):
        def forward(self, images):
            return images.mean(dim=(2, 3))

    targets = np.repeat(np.arange(4), 250)  # in order of class, as files come
    network = Network(Echo(), lambda batch: Batch(batch.images.float().permute(0, 3, 1, 2), *batch[1:]), CPU)
    images = images_of(np.zeros((1000, 4, 4, 4), np.uint8), targets)
    some = predict(network, images, until=time.monotonic() - 1)
    assert (len(some.places), some.total) == (64, 1000)
    assert set(some.targets.tolist()) == {0, 1, 2, 3}
    assert (some.targets.numpy() == targets[some.places]).all()
    whole = predict(network, images, until=math.inf)
    assert sorted(whole.places) == list(range(1000))
    unseen = near_duplicates(images, images, until=time.monotonic() - 1)
    assert (unseen.looked, unseen.total, unseen.share) == (0, 1000, 0)


def test_the_most_confident_mistakes_come_first(trained):
    splits = Digits().load(None).limited(300)
    logits = torch.zeros(300, 10)
    said = torch.from_numpy(splits.test.targets).clone()
    said[:5] = (said[:5] + 1) % 10
    logits[torch.arange(300), said] = torch.linspace(1, 5, 300)
    test = Predictions(np.arange(300), logits, torch.from_numpy(splits.test.targets), 300, np.zeros((300, 2)))
    data = trained.record["data"]
    network = Network(trained.model, normalizer(data["mean"], data["std"], CPU), CPU)
    found = analysis._mistakes(network, splits, test)
    assert [one.true for one in found] == [str(splits.test.targets[at]) for at in (4, 3, 2, 1, 0)]
    assert all(one.map.shape == (8, 8) for one in found)
    assert found[0].confidence > found[-1].confidence


def test_energy_is_power_over_time_and_gaps_are_not_guessed(trained, tmp_path):
    folder = tmp_path / "run"
    lines = [(0, 100.0), (10_000, 200.0), (20_000, 200.0), (3_600_000, 300.0), (3_610_000, 300.0)]
    folder.mkdir()
    with (folder / "system.jsonl").open("w") as stream:
        for at, watts in lines:
            values = {"system/gpu_0_power_usage_watts": watts, "system/gpu_0_power_usage_percentage": 3.0}
            stream.write(json.dumps({"event": "metrics", "time": at, "step": 0, "values": values}) + "\n")
    assert energy(Run(folder)) == pytest.approx(1500 + 2000 + 3000)
    texts = cost(trained)
    assert texts["parameters"] == "65,834"
    assert "energy of the GPUs" not in texts

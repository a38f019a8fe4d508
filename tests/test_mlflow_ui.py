"""MLflow's pages as a user meets them, in a real browser: what labbook records is what makes them useful."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass

import pytest

from core.launch import Launch
from core.record.journal import Journal, log_text
from core.runs.recorder import RunInfo
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.runs.trained import Run
from core.tracking.api import run_url, sync, tracking_uri
from core.tracking.client import connect
from experiments import digits_cnn
from tests.support.browser import chromium
from tests.support.optional import library

expect = library("playwright.sync_api", package="playwright").expect

pytestmark = pytest.mark.pictures
LAUNCH = Launch(threads=1, mlflow=False)
RATES = (0.001, 0.003, 0.01)
PATIENCE = 60_000  # ms; nothing waits for it but what is missing


@dataclass(frozen=True)
class Lab:
    """A home with three runs that differ in their learning rate, and several seeds; served by labbook ui."""

    runs: dict[float, Run]
    seeds: Run  # their parent
    page: str  # the address of MLflow's pages


@pytest.fixture(scope="module")
def lab(tmp_path_factory, forge, browser):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect(tracking_uri())
        server = forge.start("core", "ui", "--no-browser")  # comes up while the runs train
        try:
            runs, seeds = recorded()
            end = time.monotonic() + 120
            while not (found := re.search(r"http://127\.0\.0\.1:\d+/", server.text)):
                assert time.monotonic() < end
                assert not server.ended, server.text
                time.sleep(0.1)
            yield Lab(runs, seeds, found[0])
        finally:
            if not server.ended:
                server.kill(signal.SIGINT)
                server.wait(30)


def recorded() -> tuple[dict[float, Run], Run]:
    """Train, and send all to MLflow."""
    small = digits_cnn.EXPERIMENT.but({"limit": 64, "epochs": 2})
    question = (digits_cnn.__doc__ or "").strip()
    runs = {
        lr: train(
            small.but({"optimizer.lr": lr}), LAUNCH, RunInfo("digits_cnn", None, f"base optimizer.lr={lr}", question)
        )
        for lr in RATES
    }
    seeds = train_seeds(small, 2, LAUNCH, RunInfo("digits_cnn", "plain", "plain", question))
    page = "<!doctype html><title>Beside</title><ul><li>It opens without a server.</li></ul>"
    log_text(Journal(runs[RATES[0]].folder), "page.html", page)
    every = [*runs.values(), *seeds.runs, seeds.parent]
    assert all(each.complete for each in sync([run.folder for run in every]))
    return runs, seeds.parent


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        expect.set_options(timeout=PATIENCE)
        yield browser


@pytest.fixture
def tab(lab, browser):
    """On the curves of the experiment: the address that training and `labbook ui` print."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})  # with no memory of the last one's settings
    page.set_default_timeout(PATIENCE)
    page.goto(lab.page + run_url(lab.runs[RATES[0]].folder))
    yield page
    page.close()


def names(lab) -> list[str]:
    return [f"base optimizer.lr={lr} seed 0 {run.id[-4:]}" for lr, run in lab.runs.items()]


def test_curves_by_epoch(tab, lab):
    for name in [*names(lab), "plain 2 seeds"]:
        expect(tab.get_by_role("link", name=name)).to_be_visible()
    expect(tab.get_by_text("How far does a small CNN get", exact=False).first).to_be_visible()
    expect(tab.get_by_role("link", name="Model registry")).to_be_visible()  # not the menus of generative AI
    tab.get_by_placeholder("Search metric charts").fill("^(train/loss|val/accuracy)$")
    cards = tab.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards).to_have_count(2)  # the search has been applied
    for metric in ("train/loss", "val/accuracy"):
        plot = cards.filter(has_text=metric).locator(".js-plotly-plot")
        plot.locator('path.js-line[d*="L"]').nth(len(RATES) - 1).wait_for(state="attached")
        drawn = plot.evaluate("plot => plot.data.map(curve => [curve.name, [...curve.x], [...curve.y]])")
        curves = {name: dict(zip(steps, values, strict=True)) for name, steps, values in drawn}
        for name, run in zip(names(lab), lab.runs.values(), strict=True):
            assert curves[name] == pytest.approx(run.history[metric])


def test_the_curves_of_train_and_val_come_first(tab):
    headers = tab.get_by_test_id("experiment-view-compare-runs-section-header")
    headers.nth(4).wait_for()
    names = [text.partition("\n")[0] for text in headers.all_inner_texts()]
    assert names[:5] == ["train", "val", "test", "Model metrics", "step"]


def test_runs_are_grouped_by_variant(tab):
    tab.get_by_role("button", name="Group by").click()
    tab.get_by_role("menuitemradio", name="variant").or_(tab.get_by_role("menuitemcheckbox", name="variant")).click()
    for variant in ("base", "plain"):
        expect(tab.get_by_role("gridcell", name=f"Group: {variant}")).to_be_visible()


def test_what_differs_stands_out_when_runs_are_compared(tab, lab):
    tab.get_by_label("Select all runs").first.click()
    tab.get_by_role("button", name="Compare", exact=True).click()
    expect(tab.get_by_role("heading", name="Comparing 4 Runs")).to_be_visible()
    plot = tab.locator(".js-plotly-plot").first
    axes = dict(plot.evaluate("plot => plot.data[0].dimensions.map(axis => [axis.label, [...axis.values]])"))
    latest_first = [lab.seeds, *reversed(lab.runs.values())]
    assert axes.pop("optimizer.lr") == [digits_cnn.EXPERIMENT.optimizer.lr, *reversed(RATES)]
    ((metric, values),) = axes.items()  # MLflow chooses one that all have
    assert values == [run.metrics[metric] for run in latest_first]
    switch = tab.get_by_role("switch", name="Parameters - Show diff only")
    expect(tab.get_by_role("row", name=re.compile("^batch_size "))).to_be_visible()
    switch.click()
    expect(tab.get_by_role("row", name="optimizer.lr 0.1")).to_have_text("optimizer.lr0.10.010.0030.001")
    expect(tab.get_by_role("row", name=re.compile("^batch_size "))).to_be_hidden()


def test_a_run_tells_what_it_is_and_its_files_open(tab, lab):
    tab.get_by_role("link", name=names(lab)[0]).click()
    expect(tab.get_by_role("heading", name=names(lab)[0])).to_be_visible()
    expect(tab.get_by_text("How far does a small CNN get", exact=False).first).to_be_visible()
    expect(
        tab.locator("pre", has_text="python -m experiments.digits_cnn")
    ).to_be_visible()  # as code: notes are Markdown
    for tag in ("variant: base", "best_epoch"):
        expect(tab.get_by_text(tag).first).to_be_visible()
    tab.get_by_role("tab", name="Artifacts").click()
    tab.get_by_text("learning_curves.png").first.click()
    picture = tab.get_by_role("img", name="learning_curves.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 1000
    tab.get_by_text("page.html").first.click()
    expect(tab.frame_locator("iframe").get_by_text("It opens without a server.")).to_be_visible()

"""The documentation says what is so: its code runs, its commands parse, its links lead somewhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.documentation import ROOT, anchors, blocks, commands, files, links

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MISTAKES = {
    "python": "```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n",
    "verb": "```bash\nlabbook compair digits_cnn\n```\n",
    "option": "```bash\nlabbook compare digits_cnn --metrik test/f1\n```\n",
    "field": "```bash\nHERE=1 python -m experiments.digits_cnn --optimizer.lrr 1  # a comment\n```\n",
    "torchrun": "```bash\ntorchrun --nproc-per-node 2 -m experiments.digits_cnn --epoch 3\n```\n",
    "beside_a_run": "```bash\npython -m experiments.digits_cnn --from RUN --seed 5 --loss.gama 1\n```\n",
    "module": "```bash\npython -m tests.benchmarks.nothing\n```\n",
}


def name_of(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def navigation(entry) -> list[str]:
    """The pages below an entry of mkdocs.yml's nav."""
    if isinstance(entry, str):
        return [entry]
    inner = entry if isinstance(entry, list) else entry.values()
    return [page for below in inner for page in navigation(below)]


def test_every_page_is_in_the_navigation():
    # the file has tags of mkdocs' own, of which only the mkdocs loader knows
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    assert sorted(navigation(nav)) == sorted(map(name_of, PAGES))


def errors_of(forge, pages, home, *options, timeout=280) -> dict[str, str]:
    """Page -> what went wrong in it, empty where nothing did."""
    words = ("tests.support.documentation", str(home / "errors.json"), *options, *map(str, pages))
    process = forge.start(*words, env={"LABBOOK_HOME": str(home), "MPLBACKEND": "agg"}, cwd=ROOT)
    assert process.wait(timeout) == 0, process.text[-3000:]
    return json.loads((home / "errors.json").read_text())


@pytest.fixture(scope="module")
def wrong_pages(tmp_path_factory):
    """Kind of mistake -> a page that has it."""
    folder = tmp_path_factory.mktemp("wrong")
    pages = {name: folder / f"{name}.md" for name in MISTAKES}
    for name, page in pages.items():
        page.write_text(MISTAKES[name])
    return pages


@pytest.fixture(scope="module")
def errors(forge, tmp_path_factory, wrong_pages):
    """Of all pages at once: they share the imports."""
    return errors_of(forge, [*PAGES, *wrong_pages.values()], tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_runs_and_commands_parse(page, errors):
    assert not errors[str(page)], errors[str(page)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_pages_train_is_trained_to_the_end(forge, home):
    wrong = {page: error for page, error in errors_of(forge, PAGES, home, "--whole", timeout=1700).items() if error}
    assert not wrong, "\n".join(wrong.values())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_files_exist(page):
    text = page.read_text()
    for target in links(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = page.parent / path if path else page
        assert place.is_file(), f"{name_of(page)}: {target}"
        assert DOCS in Path(os.path.normpath(place)).parents, f"{name_of(page)}: {target} is not part of the site"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place.read_text()), f"{name_of(page)}: {target}"
    for path in files(text):
        assert (ROOT / path).exists(), f"{name_of(page)}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_language_of_each_block_is_named(page):
    """A block without a language is not checked, and not colored either."""
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fences[::2]), f"{name_of(page)} has a block without a language"


def test_shell_blocks_are_split_into_commands():
    text = "```bash\nexport A=1 && B=2 labbook sync RUN > log  # all\nlabbook \\\n    list | head -n 3\n```\n"
    assert list(commands(blocks(text, "bash")[0])) == [
        ["export", "A=1"],
        ["labbook", "sync", "RUN"],
        ["log"],
        ["labbook", "list"],
        ["head", "-n", "3"],
    ]


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_a_page_are_found(name, errors, wrong_pages):
    assert f"{name}.md" in errors[str(wrong_pages[name])]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    if not importlib.util.find_spec("material"):
        pytest.skip('mkdocs-material is missing: pip install -e ".[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="?(https?:[^" >]+)', path.read_text())
        assert not fetched, f"{path.name} loads {fetched}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path, home):
    nbclient = pytest.importorskip("nbclient", reason='pip install -e ".[docs]"')
    pytest.importorskip("ipykernel", reason='pip install -e ".[docs]"')
    pytest.importorskip("ipywidgets", reason='pip install -e ".[docs]"')
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are cleared before a commit"
    manager = KernelManager()
    # the kernel of this interpreter, whatever is registered on the machine
    manager._kernel_spec = KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    client = nbclient.NotebookClient(notebook, km=manager, timeout=600, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    texts = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]
    assert any("test accuracy" in text for text in texts)
    widgets = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    bars = [str(widget["state"]["outputs"]) for widget in widgets if widget["model_name"] == "OutputModel"]
    assert len(bars) == 7  # one for each training, updated to its last step
    assert all("epoch 10/10" in bar and "step 20/20" in bar for bar in bars)

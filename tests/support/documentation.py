"""Pages of Markdown: their code blocks, the command lines and links in them, and what it takes to run a page.

`python -m tests.support.documentation FILE PAGE ...` runs pages, each in a process of its own: each `python` block, in
order and in one namespace, after the blocks with a title `experiments/NAME/FILE.py` have been written to such a file in
a temporary folder; then it checks each command of the `bash` blocks. A block below `<!-- no-run -->` is only compiled.
It writes page -> error into FILE, as JSON; with --whole, what a page trains is trained to its end, not as with --smoke.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

from core.cli.accept import in_order
from core.cli.decide import is_decided, parse_variants
from core.cli.decide import parse as parse_settings
from core.cli.find_experiment import NamedExperiment
from core.cli.help import OF_VERBS
from core.cli.verbs import OF_AN_EXPERIMENT, VERBS
from core.common.arguments import VerbParser
from core.options import parse

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^(?P<indent> *)(?P<mark><!-- no-run -->\n+ *)?```(?P<language>\w+)(?P<details>[^\n]*)\n(?P<code>.*?)\n? *```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')
_LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:core|data|docs|experiments|tests)/[\w./-]*|[\w-]+\.(?:md|toml|yml|cff)|constraints\.txt)`")
_RUN_FIRST = ("from", "continue")  # options whose value is a run that only the reader has


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. title: the file that it is shown as.  line: of its first line of code, from 1."""

    language: str
    code: str
    title: str
    runs: bool
    line: int


def blocks(text: str, language: str) -> list[Block]:
    """The fenced blocks of a language in a page, indented ones too."""
    found = []
    for match in _BLOCK.finditer(text):
        if match["language"] == language:
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            title = _TITLE.search(match["details"])
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(language, code, title[1] if title else "", not match["mark"], line))
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each simple command of a shell block: comments, environment and redirections are left out."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if re.fullmatch(r"[();<>|&]+", word):
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"\w+=.*", word):
                words.append(word)


def accept(module: ModuleType, words: str) -> None:
    """Raise UserError where the command line of an experiment would; what a RUN holds, only the reader has."""
    verb, rest = words.split()[:1], shlex.split(words)
    if verb and not verb[0].startswith("-"):
        assert verb[0] in OF_AN_EXPERIMENT, f"{verb[0]} is not a verb of an experiment"
        rest = rest[1:]
    if "--help" in rest or verb == ["resume"]:
        return
    for name in _RUN_FIRST:
        if f"--{name}" in rest:
            place = rest.index(f"--{name}")
            del rest[place : place + 2]
    if "--to" in rest and verb == ["look"]:
        place = rest.index("--to")
        del rest[place : place + 2]
    if is_decided(rest):
        parse_variants(NamedExperiment(module), rest)
        return
    parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}), OF_VERBS.get("".join(verb)))


def check(words: list[str]) -> None:
    """Raise UserError or AssertionError where a command of labbook would refuse these words. Other programs pass."""
    if words[0] == "labbook":
        _check_verb(words[1:])
    elif words[:3] == ["python", "-m", "core"]:
        _check_verb(words[3:])
    elif "-m" in words and words[0] in ("python", "torchrun"):
        module, *rest = words[words.index("-m") + 1 :]
        if module.startswith("experiments."):
            accept(importlib.import_module(module), shlex.join(rest))
        elif module.startswith(("tests.", "experiments")):
            assert importlib.util.find_spec(module), f"there is no module {module}"


def _check_verb(words: list[str]) -> None:
    verb, *rest = words or [""]
    if verb in OF_AN_EXPERIMENT:
        if verb == "resume" or "--help" in rest:
            return
        accept(importlib.import_module(f"experiments.{rest[0]}"), shlex.join([verb, *rest[1:]]))
        return
    assert verb in VERBS, f"labbook has no verb {verb}"
    if verb == "launch":
        _check_launch(rest)
    elif verb == "queue" and rest[:1] in (["add"], ["submit"]):
        _check_queue(*rest)
    elif verb == "check_loss":
        importlib.import_module("core.cli.check_loss").parse(rest)
    elif verb in ("decide", "accept"):
        if "--help" not in rest:
            parse_settings(verb, in_order(rest) if verb == "accept" else rest)
    elif verb not in ("list", "sync") and "--help" not in rest:
        _parsed(verb, rest)


def _check_launch(words: list[str]) -> None:
    if "--help" in words:
        return
    which = mock.patch("core.cluster.job.shutil.which", return_value="there")  # sbatch is where jobs are submitted
    with which, mock.patch("core.cli.launch.lacking", return_value=[]):  # Ray is not a part of [dev]
        importlib.import_module("core.cli.launch").parse(words)


def _check_queue(verb: str, *words: str) -> None:
    queue = importlib.import_module("core.cli.queue")
    if verb == "add":
        with mock.patch.object(queue, "_unfit", return_value=[]):  # the entries to wait for are the reader's
            queue.parse(words)
    else:
        with mock.patch("core.cluster.job.shutil.which", return_value="there"):
            queue.parse_submit(words)


class _Parsed(Exception):
    """The words of a verb are those that it takes."""


def _parsed(verb: str, words: list[str]) -> None:
    """Let the verb's own parser read the words, and nothing come of it."""
    name = f"core.cli.{verb}_" if importlib.util.find_spec(f"core.cli.{verb}_") else f"core.cli.{verb}"
    original = VerbParser.parse_args

    def stop(parser: VerbParser, *given: object) -> None:
        original(parser, *given)  # type: ignore[call-overload]
        raise _Parsed

    with mock.patch.object(VerbParser, "parse_args", stop):
        try:
            importlib.import_module(name).main(words)
        except _Parsed:
            return
    raise AssertionError(f"labbook {verb} has read no options")


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures, without those in code blocks."""
    return _LINK.findall(_BLOCK.sub("", text))


def files(text: str) -> list[str]:
    """Paths of the repository that a page's prose names in code type."""
    return [name for name in _PATH.findall(_BLOCK.sub("", text)) if "NAME" not in name and "my_idea" not in name]


def anchors(text: str) -> set[str]:
    """What links to a page may name after #, as mkdocs makes them from headings."""
    from markdown.extensions.toc import slugify

    headings = re.findall(r"^#+ +(.*?)\s*$", _BLOCK.sub("", text), re.MULTILINE)
    named = [re.search(r"\{ *#([\w-]+) *\}", heading) for heading in headings]
    return {
        own[1] if own else slugify(heading.replace("`", ""), "-") for heading, own in zip(headings, named, strict=True)
    }


def run(page: Path, folder: Path) -> None:
    """Run a page; whatever its code raises is raised. AssertionError names the place of a command that is refused."""
    import experiments

    text = page.read_text()
    python = blocks(text, "python")
    experiments.__path__.append(str(folder / "experiments"))
    own = [block for block in python if block.runs and block.title.startswith("experiments/")]
    for block in own:
        place = folder / block.title
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(block.code + "\n")
        (place.parent / "__init__.py").touch()
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in python:
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        if block in own:
            name = block.title.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            module = importlib.import_module(name)
            namespace |= {name: value for name, value in vars(module).items() if not name.startswith("__")}
        elif block.runs:
            exec(code, namespace)
    for block in blocks(text, "bash"):
        for words in commands(block):
            try:
                check(words)
            except Exception as error:
                where = f"{page.name}, block at line {block.line}"
                raise AssertionError(f"{where}: {shlex.join(words)}: {error}") from error


def main(found: str, pages: list[str], whole: bool) -> None:
    """Run each page in a process forked from one that has done all imports. found: a file for what went wrong."""
    import torch

    from core import train
    from core.launch import Launch
    from experiments.digits_cnn import EXPERIMENT

    torch.set_num_threads(1)
    # a page shows what a user types; the mirror is tested elsewhere and would cost each page its start
    Launch.model_fields["mlflow"].default = False
    Launch.model_fields["smoke"].default = not whole
    Launch.model_rebuild(force=True)
    errors = {}
    if any("train(" in block.code for page in pages for block in blocks(Path(page).read_text(), "python")):
        train(EXPERIMENT.but({"augment": ()}), Launch(smoke=True, device="cpu", threads=1))
    for page in pages:
        with tempfile.TemporaryDirectory() as temporary:
            error_file = Path(temporary) / "error.txt"
            pid = os.fork()
            if pid == 0:
                try:
                    run(Path(page), Path(temporary))
                except BaseException:
                    error_file.write_text(traceback.format_exc())
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            errors[page] = (
                error_file.read_text() if error_file.exists() else f"ended with status {status}" if status else ""
            )
    Path(found).write_text(json.dumps(errors))


if __name__ == "__main__":
    main(sys.argv[1], [word for word in sys.argv[2:] if word != "--whole"], "--whole" in sys.argv)

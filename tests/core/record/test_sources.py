"""What the record has of the code: digests, the diff, untracked files; and what must never be in it."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.common.errors import UserError
from core.record import git as calls
from core.record import provenance, sources
from core.record.secret_scan import suspicious
from core.runs.rerun import _worktree

# of ten kinds, in two pieces, so that no scanner of this repository takes them for real ones
KEYS = {
    "aws": "KEY = 'AK" + "IAQ7MZ3XKD5RTW8PLN'",
    "github": "export GH=gh" + "p_a8Kq2Lm9Xc4Vb7Nz1Qw5Er3Ty6Ui0Op2As4D",
    "huggingface": "export HF=h" + "f_aKqLmXcVbNzQwErTyUiOpAsDfGhJkLzXc",
    "wandb": "wandb.login(key='9f3c1e7a5b" + "2d8c6e4f0a1b3c5d7e9f2a4b6c8d0e'",
    "private_key": "text = '''-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA'''",
    "password": "pass" + "word = 'hunter2-correct'",
    "uri": "db = 'postgresql://lab:" + "s3cr3t-pw@host/db'",
    "bearer": "headers = {'Authorization': 'Bea" + "rer a8Kq2Lm9Xc4Vb7Nz1Qw5Er3T'}",
    "query": "get('https://host/?api_" + "key=a8Kq2Lm9Xc4V')",
    "slack": "SLACK = 'xo" + "xb-123456789012-123456789012-a8Kq2Lm9Xc4Vb7Nz1Qw5Er3T'",
}


def run_git(folder, *words):
    names = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    subprocess.run(["git", *names, "-C", folder, *words], check=True, capture_output=True)


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A repository with labbook in its folder `lab`."""
    top = tmp_path / "top"
    root = top / "lab"
    (root / "experiments" / "mine").mkdir(parents=True)
    (root / "experiments" / "mine" / "__init__.py").write_text("x = 1\n")
    (root / "experiments" / "ümlaut name.py").write_bytes("x = 'ä'\r\n".encode("latin-1"))
    (root / "picture.bin").write_bytes(bytes(range(256)))
    (top / "other.py").write_text("x = 1\n")
    (top / ".gitignore").write_text("ignored.py\n")
    run_git(tmp_path, "init", "-q", str(top))
    run_git(top, "add", ".")
    run_git(top, "commit", "-qm", "first")
    monkeypatch.setattr(calls, "ROOT", root)
    monkeypatch.setattr(sources, "ROOT", root)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    return top


SOURCES = {"experiments/mine/__init__.py": "digest"}


def recorded(tmp_path, kind="code", names=("experiments/mine/__init__.py", "experiments/ümlaut name.py")):
    """A run on record that imported these sources."""
    files = {name: sources.now(name) for name in names}
    found = sources.snapshot(kind, files)
    artifacts = tmp_path / "run" / "artifacts"
    texts = {sources.FILE: sources.to_record(kind, files, found.left_out).encode(), sources.DIFF_FILE: found.diff}
    for name, content in (texts | {f"{sources.UNTRACKED}/{file}": found.files[file] for file in found.files}).items():
        (artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        if content:
            (artifacts / name).write_bytes(content)
    record = {"experiment": "mine", "facts": provenance.code()}
    return SimpleNamespace(id="mine-1", record=record, folder=tmp_path / "run")


def change(top):
    root = top / "lab"
    (root / "experiments" / "mine" / "__init__.py").write_text("x = 2\n")
    (root / "experiments" / "ümlaut name.py").write_bytes("x = 'äö'\r\n\x0c\n".encode("latin-1"))
    (root / "picture.bin").write_bytes(bytes(range(255, -1, -1)))
    (root / "experiments" / "mine" / "new.py").write_text("y = 1\n")


def test_the_diff_can_be_applied_whatever_the_user_configured(top, tmp_path, monkeypatch):
    marker, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    order = tmp_path / "order"
    order.write_text("*.bin\n")
    settings = {
        "diff.external": program, "diff.noprefix": "true", "diff.mnemonicPrefix": "true", "color.ui": "always",
        "diff.context": "0", "diff.orderFile": order, "diff.relative": "true", "core.fsmonitor": program,
        "diff.x.textconv": program, "diff.renames": "copies", "core.quotePath": "true", "diff.submodule": "log",
        "core.hooksPath": tmp_path, "core.attributesFile": tmp_path / "attributes", "apply.whitespace": "error",
        "diff.interHunkContext": "9", "status.showUntrackedFiles": "no", "core.pager": program,
    }  # fmt: skip
    (tmp_path / "attributes").write_text("*.py diff=x\n*.bin diff=x\n")
    (tmp_path / "post-checkout").symlink_to(program)
    plain = None
    change(top)
    for configured in (False, True):
        if configured:
            for name, value in settings.items():
                run_git(top, "config", "--global", name, str(value))
            monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(program))
            monkeypatch.setenv("GIT_DIR", str(tmp_path))
        run = recorded(tmp_path)
        diff = (run.folder / "artifacts" / sources.DIFF_FILE).read_bytes()
        plain = plain or diff
        assert diff == plain
        with _worktree(run) as folder:
            for name in ("experiments/mine/__init__.py", "experiments/ümlaut name.py", "picture.bin"):
                assert (folder / name).read_bytes() == (top / "lab" / name).read_bytes(), name
            assert (folder / "experiments" / "mine" / "new.py").read_text() == "y = 1\n"
            assert folder.name == "lab"
        assert provenance.code()["git.dirty"] == "true"
    assert not marker.exists()
    assert len(calls.git("worktree", "list").splitlines()) == 1


def test_changes_outside_of_the_folder_of_labbook_are_not_recorded(top):
    (top / "other.py").write_text("x = 2\n")
    assert sources.snapshot("all", SOURCES).diff == b""
    assert provenance.code()["git.dirty"] == "false"


def test_what_was_not_recorded_is_not_run_as_the_recorded_code(top, tmp_path):
    (top / "lab" / "experiments" / "mine" / "ignored.py").write_text("x = 1\n")
    run = recorded(tmp_path, names=("experiments/mine/ignored.py",))
    with pytest.raises(UserError, match=r"cannot be restored\nexperiments/mine/ignored.py: git does not have it"), \
            _worktree(run):  # fmt: skip
        pass
    run.record["experiment"] = "yours"
    (run.folder / "artifacts" / sources.FILE).unlink()
    with pytest.raises(UserError, match="its commit does not contain experiments/yours"), _worktree(run):
        pass


def test_a_large_file_is_named_and_not_in_the_diff(top):
    (top / "lab" / "weights.bin").write_bytes(os.urandom(3_000_000))
    (top / "lab" / "picture.bin").write_bytes(bytes(600_000))
    run_git(top, "add", ".")
    (top / "lab" / "experiments" / "mine" / "__init__.py").write_text("x = 2\n")
    found = sources.snapshot("code", SOURCES)
    assert len(found.diff) < 1000
    assert b"+x = 2" in found.diff
    assert found.left_out == dict.fromkeys(["picture.bin", "weights.bin"], "more than 500,000 bytes")
    run_git(top, "commit", "-qam", "large")
    (top / "lab" / "weights.bin").unlink()
    assert len(sources.snapshot("code", SOURCES).diff) < 1000


def test_many_files_are_bounded_together(top, monkeypatch):
    monkeypatch.setattr(sources, "_MOST_TOGETHER", 2500)
    for number in range(4):
        (top / "lab" / "experiments" / "mine" / f"{number}.py").write_text("x = 1\n" * 150)
    found = sources.snapshot("code", SOURCES)
    assert sorted(found.files) == ["experiments/mine/0.py", "experiments/mine/1.py"]
    assert set(found.left_out.values()) == {"more than 2,500 bytes in all"}


def test_untracked_files(top, tmp_path):
    mine = top / "lab" / "experiments" / "mine"
    outside = tmp_path / "outside.py"
    outside.write_text("private = 1\n")
    (mine / "linked.py").symlink_to(outside)
    (mine / "folder").symlink_to(tmp_path)
    os.mkfifo(mine / "pipe.py")
    (mine / "kernel.cu").write_text("int x;\n")
    (mine / "large.py").write_text("x = 1\n" * 100_000)
    (mine / "secrets.py").write_text("x = 1\n")
    (mine / "notes.md").write_text("notes\n")
    (top / "lab" / "elsewhere").mkdir()
    (top / "lab" / "elsewhere" / "draft.py").write_text("x = 1\n")
    (top / "lab" / "conf.toml").write_text("x = 1\n")
    assert sources.snapshot("none", SOURCES) == sources.Snapshot()
    found = sources.snapshot("code", SOURCES)
    assert sorted(found.files) == ["experiments/mine/kernel.cu"]
    assert found.left_out == {
        "experiments/mine/linked.py": "a symbolic link",
        "experiments/mine/large.py": "more than 500,000 bytes",
        "experiments/mine/secrets.py": "its name is that of a secret",
    }
    more = sources.snapshot("all", SOURCES)
    assert sorted(set(more.files) - set(found.files)) == [
        "conf.toml",
        "elsewhere/draft.py",
        "experiments/mine/notes.md",
    ]
    assert b"private" not in b"".join(more.files.values())


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("name", ["setup.sh", "conf.toml", "run.py", "book.ipynb"])
def test_planted_keys_are_left_out(kind, name, top):
    text = KEYS[kind]
    if name.endswith("ipynb"):
        text = json.dumps({"cells": [{"source": [f"{text}\n"]}]})
    mine = top / "lab" / "experiments" / "mine"
    (mine / name).write_text(f"x = 1\n{text}\n")
    (mine / "__init__.py").write_text(f"x = 1\n{text}\n")
    found = sources.snapshot("all", SOURCES)
    assert sorted(found.left_out) == ["experiments/mine/__init__.py", f"experiments/mine/{name}"]
    assert (found.diff, found.files) == (b"", {})


@pytest.mark.parametrize(
    "name",
    ["secrets.yaml", ".env", ".env.local", "id_rsa", "server.pem", "credentials.json", "my_api_key.txt", ".netrc",
     "hf_token.txt", "aws-secret.toml"],
)  # fmt: skip
def test_names_of_secrets(name):
    assert suspicious({f"folder/{name}": b""}) == {f"folder/{name}": "its name is that of a secret"}


def test_usual_code_is_not_taken_for_secrets():
    text = b"""
password = getpass()
token = tokenizer.next()
secret = os.environ["SECRET"]
class_balanced = weighs_by_the_effective_number_and_adds_up_to_the_classes
SHA256 = "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
example = "KEY"  # pragma: allowlist secret
""".replace(b"KEY", b"AKIA" + b"Q7MZ3XKD5RTW8PLN")
    assert suspicious({"losses.py": text, "tokens.py": text, "secretary.py": text}) == {}
    assert suspicious({"losses.py": text.replace(b"  # pragma: allowlist secret", b"")})


def test_why_there_is_no_commit(top, tmp_path, monkeypatch):
    assert set(provenance.code()) == {"git.commit", "git.branch", "git.dirty"}
    monkeypatch.setattr(calls, "_KEPT", (*calls._KEPT, "GIT_TEST"))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert provenance.code()["git.unknown"].startswith(f"git does not trust {top}, which another user owns")
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setattr(calls, "ROOT", empty)
    assert provenance.code() == {"git.unknown": "this is not a git repository"}
    run_git(empty, "init", "-q")
    assert provenance.code() == {"git.unknown": "the git repository has no commit"}
    monkeypatch.setenv("PATH", str(empty))
    assert provenance.code() == {"git.unknown": "git is not installed"}
    assert sources.snapshot("all", SOURCES) == sources.Snapshot()


def test_a_dirty_submodule_is_not_on_record(top, tmp_path):
    library = tmp_path / "library"
    library.mkdir()
    run_git(library, "init", "-q")
    (library / "a.py").write_text("x = 1\n")
    run_git(library, "add", ".")
    run_git(library, "commit", "-qm", "first")
    run_git(top / "lab", "submodule", "add", str(library), "library")
    run_git(top, "commit", "-qam", "submodule")
    assert "git.unrecorded" not in provenance.code()
    (top / "lab" / "library" / "a.py").write_text("x = 2\n")
    assert provenance.code()["git.unrecorded"] == "uncommitted changes in the submodule lab/library"
    assert b"-dirty" not in sources.snapshot("code", SOURCES).diff


def test_imported_sources_are_those_of_no_package(tmp_path, monkeypatch):
    import numpy  # noqa: F401

    import core.losses.base

    (tmp_path / "lent_module.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("lent_module")
    found = sources.imported()
    assert found["core/losses/base.py"] == sources.digest_of(Path(core.losses.base.__file__))
    assert "module lent_module" in found
    assert not [name for name in found if "numpy" in name or "site-packages" in name or "json" in name]
    (tmp_path / "lent_module.py").write_bytes(b"x = 1\r\n")
    assert sources.now("module lent_module") == found["module lent_module"]  # line ends do not count
    (tmp_path / "lent_module.py").write_text("x = 2\n")
    assert sources.now("module lent_module") != found["module lent_module"]
    assert sources.now("core/gone.py") is None

"""Passwords in URIs are never shown, however they are written."""

from __future__ import annotations

import shlex
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.common.errors import UserError
from core.common.text import public, unquoted
from core.record import provenance
from core.search.storage import open_storage

SCHEMES = st.sampled_from(["http", "https", "postgresql", "postgresql+psycopg", "mysql+pymysql", "grpc", "s3"])
CHARS = st.characters(min_codepoint=33, max_codepoint=382, exclude_categories=("Cc", "Zs", "Zl", "Zp"))
WITH_SPACES = st.one_of(CHARS, st.just(" "))
PARAMETERS = st.sampled_from(["password", "sslpassword", "pwd", "passwd", "token", "api_key", "ACCESS_TOKEN", "secret"])
HOSTS = st.sampled_from(["host", "lab.example:5000", "[::1]:5432", "127.0.0.1"])
TAILS = st.sampled_from(["", "/", "/db", "/db?sslmode=require", "/#/experiments/1"])


def around(alphabet, avoid=""):
    """A password with a marker in it, and any characters around."""
    part = st.text(alphabet, max_size=12).filter(lambda text: not set(text) & set(avoid))
    return st.builds(lambda before, after: f"{before}MARKER{after}", part, part)


@given(SCHEMES, st.sampled_from(["me", "", "m%40e"]), around(CHARS), HOSTS, TAILS)
def test_a_password_of_a_user_is_hidden(scheme, user, password, host, tail):
    uri = f"{scheme}://{user}:{password}@{host}{tail}"
    assert "MARKER" not in public(f"cannot reach {uri}: refused; again in 5 s, {uri}.")
    assert "MARKER" not in public(uri, whole=True)


@given(SCHEMES, around(WITH_SPACES), HOSTS, TAILS)
def test_of_a_whole_uri_a_password_may_hold_spaces(scheme, password, host, tail):
    assert "MARKER" not in public(f"{scheme}://me:{password}@{host}{tail}", whole=True)


@given(SCHEMES, st.sampled_from(["", "me@", "me:other@"]), PARAMETERS, around(CHARS, "&;"), HOSTS, st.booleans())
def test_a_password_in_a_query_is_hidden(scheme, user, name, password, host, first):
    query = f"?{name}={password}&x=1" if first else f"?x=1&{name}={password}"
    shown = public(f"failed: {scheme}://{user}{host}/db{query} now")
    assert "MARKER" not in shown
    assert "other" not in shown
    assert shown.startswith(f"failed: {scheme}://")
    assert shown.endswith(" now")


@given(SCHEMES, st.text(min_size=1, max_size=20), HOSTS, TAILS)
def test_a_well_formed_uri_loses_nothing_else(scheme, password, host, tail):
    bare = f"{scheme}://{host}{tail}"
    assert public(bare) == public(bare, whole=True) == bare
    uri = f"{scheme}://me:{quote(password, safe='')}@{host}{tail}"
    assert public(uri) == public(uri, whole=True) == bare
    assert unquoted(uri) is None


@pytest.mark.parametrize("text", ["sqlite:////home/a@b/x/mlflow.db", "see https://host/a/b", "a@b", "no URI: x=1"])
def test_other_texts_stay(text):
    assert public(text) == text


@pytest.mark.parametrize(
    ("password", "char", "code"), [("se@cret", "@", "%40"), ("se/cret", "/", "%2F"), ("se?cret", "?", "%3F"),
                                   ("a?password=se@cret", "@", "%40")],
)  # fmt: skip
def test_a_password_that_programs_would_take_apart_is_refused(password, char, code, tmp_path):
    with pytest.raises(UserError, match=f"should be written {code}") as caught:
        open_storage(f"postgresql://user:{password}@nohost/studies", tmp_path)
    assert "cret" not in str(caught.value)


def test_a_command_line_is_recorded_without_passwords(monkeypatch):
    words = [
        "x",
        "--storage",
        "postgresql://me:a MARKER/b@lab/s",
        "--storage=mysql://lab/s?password=MARKER",
        "--a",
        "b",
    ]
    monkeypatch.setattr(sys, "argv", words)
    shown = provenance.command()
    assert shown.endswith("--storage postgresql://lab/s '--storage=mysql://lab/s?password=***' --a b")


def test_a_recorded_command_can_be_pasted_into_a_shell(monkeypatch):
    words = ["my folder/x.py", "--name", "two words", "--note", "it's $5"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.delattr(sys.modules["__main__"], "__spec__")
    assert shlex.split(provenance.command()) == ["python", *words]


def test_a_command_of_the_entry_point_is_shown_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/labbook", "decide", "a", "b"])
    monkeypatch.delattr(sys.modules["__main__"], "__spec__")
    assert provenance.command() == "labbook decide a b"

"""What is wrong with a tracking store such that waiting does not help; found without a call to MLflow, which is slow to
import."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from core.common import paths
from core.common.text import public, unquoted

# the columns in which MLflow keeps absolute places of artifacts
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_SCHEMES = "http://, https://, sqlite:///, postgresql+psycopg:// or mysql+pymysql://"
_DRIVERS = {
    "postgresql": "psycopg2", "postgresql+psycopg2": "psycopg2", "postgresql+psycopg": "psycopg",
    "mysql": "MySQLdb", "mysql+pymysql": "pymysql", "mssql": "pyodbc", "mssql+pyodbc": "pyodbc",
}  # fmt: skip
_OTHERS = ("sqlite", "databricks", "databricks-uc", "uc")
_PLACE = re.compile(r"(file://)?(/.*)/mlruns/(\d+(?:/.*)?)", re.DOTALL)


def problem(uri: str, own: bool) -> str | None:
    """Returns what has to be repaired before MLflow can get a run, in a line with advice; None if nothing is known.

    own: whether the store is the database in the home folder.
    """
    if uri.startswith("sqlite:///"):
        return _of_database(Path(uri.removeprefix("sqlite:///").partition("?")[0]), own)
    shown = f"MLFLOW_TRACKING_URI={public(uri, whole=True)}"
    scheme = uri.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return _of_address(uri, shown)
    if char := unquoted(uri):
        return f"{shown}: {char} in the password should be written %{ord(char):X}"
    if driver := _DRIVERS.get(scheme):
        return None if find_spec(driver) else f"{shown}: its driver {driver} is not installed; use {_SCHEMES}"
    if scheme in _OTHERS:
        return None
    if re.fullmatch(r"[\w.-]+:\d+/?", uri):
        return f"{shown}: it has no scheme; use http://{uri}"
    if "://" not in uri or scheme == "file":
        return f"{shown}: a folder cannot hold runs of MLflow; use {_SCHEMES}, or unset it for the database of labbook"
    return f"{shown}: {scheme}:// is not supported; use {_SCHEMES}"


def earlier_homes(database: Path) -> list[str]:
    """Returns the folders, other than the present home, whose mlruns/ holds artifacts as the home's database says.

    They are earlier places of a home that was moved or copied if their artifacts are in the present one, too, or if
    they do not exist any more. Raises sqlite3.Error.
    """
    here = os.path.realpath(paths.home())
    found: dict[str, list[str]] = {}
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as opened:
        for place in all_places(opened):
            if (home := split(place)) and os.path.realpath(home[1]) != here:
                found.setdefault(home[1], []).append(home[2])
    return [home for home, below in found.items() if _moved(home, below)]


def all_places(opened: sqlite3.Connection) -> Iterator[str]:
    """Yield every place of artifacts in a database."""
    for table, column in columns(opened):
        yield from (text for (text,) in opened.execute(f"select distinct {column} from {table}") if text)


def columns(opened: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """Yield (table, column) for each column of places that this version of the database has."""
    for table, column in PLACES:
        if opened.execute(f"select 1 from pragma_table_info('{table}') where name = '{column}'").fetchone():
            yield table, column


def split(place: str) -> tuple[str, str, str] | None:
    """Returns ("file://" or nothing, home, path below its mlruns/) of a place of artifacts; None if it is another."""
    if not (found := _PLACE.fullmatch(place)):
        return None
    start, home, below = found[1] or "", found[2], found[3]
    return (start, unquote(home), unquote(below)) if start else (start, home, below)


def _moved(home: str, below: list[str]) -> bool:
    mlruns = paths.home() / "mlruns"
    if set(below) == {"0"}:  # the default experiment, which labbook does not use; whatever made the database placed it
        return False
    return not (Path(home) / "mlruns").exists() or any((mlruns / path).exists() for path in below)


def _of_address(uri: str, shown: str) -> str | None:
    if char := unquoted(uri):
        return f"{shown}: {char} in the password should be written %{ord(char):X}"
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        return f"{shown}: {public(str(error))}"
    return None if parts.hostname else f"{shown}: it has no host; use http://HOST:PORT"


def _of_database(database: Path, own: bool) -> str | None:
    if not database.exists():
        return None
    try:
        version = schema(database)
        homes = earlier_homes(database) if own else []
    except sqlite3.OperationalError:  # locked, for example: waiting may help
        return None
    except sqlite3.DatabaseError as error:
        return f"{database}: {error}; move it away, and labbook sync sends all runs to a new one"
    known = revisions()
    if version and known and version not in known:
        return f"{database} was written by a newer MLflow (schema {version}); install it: pip install -U mlflow"
    if version and known and known[version]:
        by_hand = f"copy it, then: mlflow db upgrade sqlite:///{database}"
        upgrade = "labbook sync makes a copy and upgrades it" if own else by_hand
        return f"{database} was written by an older MLflow (schema {version}); {upgrade}"
    if homes:
        return f"the home was moved or copied from {homes[0]}, where MLflow would still write; labbook sync repairs it"
    return None


def schema(database: Path) -> str | None:
    """Returns the revision of MLflow's tables in a SQLite database; None if it has none. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as opened:
        if not opened.execute("select 1 from sqlite_master where name = 'alembic_version'").fetchone():
            return None
        found = opened.execute("select version_num from alembic_version").fetchone()
        return str(found[0]) if found else None


@cache
def revisions() -> dict[str, bool]:
    """Returns revision -> whether the installed MLflow has a later one. Empty if its migrations are not found."""
    spec = find_spec("mlflow")  # not imported
    parents = (spec.submodule_search_locations if spec else None) or []
    files = [file for parent in parents for file in Path(parent, "store", "db_migrations", "versions").glob("*.py")]
    texts = [file.read_text(errors="replace") for file in files]
    own = {found[1] for text in texts if (found := re.search(r"^revision\b.*?[\"'](\w+)", text, re.M))}
    lines = [line for text in texts for line in re.findall(r"^down_revision.*", text, re.M)]
    earlier = {name for line in lines for name in re.findall(r"[\"'](\w+)[\"']", line)}
    return {revision: revision in earlier for revision in own}

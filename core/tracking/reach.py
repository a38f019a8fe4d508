"""Whether the MLflow store answers now, and what time its server has; without MLflow, which is slow to import."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from core.common.text import public
from core.tracking.address import public_uri, store_problem, tracking_uri
from core.tracking.store_check import revisions, schema

SECONDS = 10.0


@dataclass(frozen=True)
class Reached:
    """What was found. wrong: why runs would not arrive, or empty.  ahead: seconds by which the server's clock is ahead
    of this machine's; None without a server that tells the time."""

    found: str
    wrong: str = ""
    ahead: float | None = None


def reach(seconds: float = SECONDS) -> Reached:
    """Ask the store once; nothing is created. seconds: how long to wait for a server."""
    if wrong := store_problem():
        return Reached(public_uri(), wrong)
    uri = tracking_uri()
    if uri.startswith("sqlite:///"):
        return _of_file(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    if uri.startswith(("http://", "https://")):
        return _of_server(uri, seconds)
    if uri.startswith(("postgresql", "mysql", "mssql")):
        return _of_database(uri, seconds)
    return Reached(f"{public_uri()}: not asked, only http, https and databases are")


def _of_file(database: Path) -> Reached:
    if database.exists():
        able = os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)
        return Reached(f"{database}, schema {schema(database)}", "" if able else f"{database} cannot be written")
    above = next(folder for folder in database.parents if folder.exists())
    return Reached(
        f"{database} does not exist yet; the first run creates it",
        "" if os.access(above, os.W_OK) else f"{above} cannot be written",
    )


def _of_server(uri: str, seconds: float) -> Reached:
    import requests

    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    login = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    began = time.time()
    try:
        answer = requests.post(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            auth=login,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=seconds,
        )
    except requests.RequestException as error:
        reason = type(error).__name__
        return Reached(public_uri(), f"MLFLOW_TRACKING_URI={public_uri()} does not answer ({reason})")
    here = (began + time.time()) / 2
    there = answer.headers.get("Date")
    # the header is cut to whole seconds
    ahead = parsedate_to_datetime(there).timestamp() + 0.5 - here if there else None
    if answer.status_code in (401, 403):
        return Reached(public_uri(), f"{public_uri()} refuses the login ({answer.status_code})", ahead)
    if answer.status_code != 200 or "json" not in answer.headers.get("Content-Type", ""):
        return Reached(public_uri(), f"{public_uri()} answers, but not as MLflow ({answer.status_code})", ahead)
    return Reached(f"{public_uri()} answers", ahead=ahead)


def _of_database(uri: str, seconds: float) -> Reached:
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    options = {} if uri.startswith("mssql") else {"connect_timeout": max(1, round(seconds))}
    try:
        engine = create_engine(uri, connect_args=options)
        with engine.connect() as opened:
            version = None
            if inspect(opened).has_table("alembic_version"):
                version = opened.execute(text("select version_num from alembic_version")).scalar()
        engine.dispose()
    except SQLAlchemyError as error:
        reason = public(str(getattr(error, "orig", error)).strip().splitlines()[0])
        return Reached(public_uri(), f"MLFLOW_TRACKING_URI={public_uri()} does not answer ({reason})")
    if version is None:
        return Reached(f"{public_uri()} answers; the first run creates its tables")
    known = revisions()
    if known and version not in known:
        return Reached(public_uri(), f"its schema {version} is of a newer MLflow; install it: pip install -U mlflow")
    if known.get(version):
        return Reached(public_uri(), f"its schema {version} is of an older MLflow; copy it, then: mlflow db upgrade")
    return Reached(f"{public_uri()} answers, schema {version}")

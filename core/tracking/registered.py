"""Which models of MLflow's registry were made from a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.common.errors import UserError
from core.tracking import cursor
from core.tracking.api import public_uri, tracking_uri


def models_of(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Run id -> "NAME version N" of each model in the registry that was made from the run. Runs that the present store
    does not have cannot be registered in it. Raises UserError if the store does not respond."""
    records = {folder.name: cursor.load(folder) for folder in folders}
    here = [run for run, record in records.items() if record and record.tracking_uri == public_uri()]
    if not here:
        return {}
    from core.tracking.client import RUN_TAG, connect

    try:
        client = connect(tracking_uri())
        found = {run: client.search_model_versions(f"tags.`{RUN_TAG}` = '{run}'") for run in here}
    except Exception as error:  # a database raises what its driver does
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:300]
        unknown = f"MLflow at {public_uri()} does not tell whether a model of the run is registered: {reason}"
        raise UserError([f"{unknown}; try again when it responds"]) from None
    names = {run: [f"{one.name} version {one.version}" for one in versions] for run, versions in found.items()}
    return {run: own for run, own in names.items() if own}

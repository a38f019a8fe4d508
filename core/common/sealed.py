"""JSON objects that hold a digest of themselves, so that damage is noticed where they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEAL = "seal"


def sealed(fields: Mapping[str, Any], indent: int | None = None) -> str:
    """Returns the fields as JSON, with their digest."""
    return json.dumps({**fields, SEAL: _digest(fields)}, indent=indent)


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Read a JSON object back. Without a digest, as older versions wrote it, it is not checked. Raises ValueError."""
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    seal = fields.pop(SEAL, None)
    if seal is not None and seal != _digest(fields):
        raise ValueError("it does not match its digest")
    return fields


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

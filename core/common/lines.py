"""Files of JSON objects, one on each line, to which several processes append."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.common.terminal import complain


def append(path: Path, objects: Iterable[Any]) -> None:
    """Append objects to a file, which is created if there is none. Raises OSError."""
    # each line begins with a line break, which ends a torn line before it
    text = "".join("\n" + json.dumps(one) for one in objects)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(text.encode())


def read(path: Path) -> Iterator[Any]:
    """Yield the objects of a file; none if there is no file. Lines that cannot be read, such as those that a full disk
    has cut off, are left out with a warning. Raises UserError."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError([f"{path}: {error.strerror}"]) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                complain(f"warning: {path}, line {number} is damaged and is left out")

"""Safe reading of the pickled batches of CIFAR: no code named by a pickle is executed."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import DataError
from data.reading import archive
from data.reading.progress import bar, printable

POLICY = "CIFAR python batches 1: RGB as stored, NHWC"


@dataclass(frozen=True)
class Batch:
    """pixels: uint8 [N, 32, 32, 3].  labels: N class indices."""

    pixels: np.ndarray
    labels: list[int]


def read(
    path: Path, names: dict[str, str], meta: str, names_field: bytes, labels_field: bytes
) -> tuple[list[str], dict[str, Batch]]:
    """(class names, batch name -> batch).  names: name of a batch, or meta -> member of the archive or folder `path`.

    Raises DataError if a member is not a CIFAR batch.
    """
    classes: list[str] = []
    found: dict[str, Batch] = {}
    wanted = {member: name for name, member in names.items()}
    with bar(f"reading {path.name}", len(names), "batches") as advance:
        for member, content in archive.members(path, lambda member: member.name in wanted and not member.folder):
            if content is None:
                continue
            name = wanted[member.name]
            try:
                fields = _load(content.read_bytes() if isinstance(content, Path) else content)
                if name == meta:
                    classes = [item.decode() for item in fields[names_field]]
                else:
                    found[name] = _batch(fields[b"data"], fields[labels_field])
            except Exception as error:  # a damaged or malicious pickle can raise nearly any exception
                raise _unfit(path, member.name, error) from None
            advance(1)
    for name, batch in found.items():
        if not all(0 <= label < len(classes) for label in batch.labels):
            raise _unfit(path, name, ValueError(f"it has labels outside the range 0 to {len(classes) - 1}"))
    return classes, found


def _batch(data: Any, labels: Any) -> Batch:
    if not isinstance(data, _Array) or data.shape != (len(labels), 3072) or not len(labels):
        raise ValueError("it does not contain one row of 3072 bytes for each label")
    if not all(type(label) is int for label in labels):
        raise ValueError("its labels are not integers")
    planes = np.frombuffer(data.content, np.uint8).reshape(len(labels), 3, 32, 32)  # ValueError if too short or long
    return Batch(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), list(labels))


def _unfit(path: Path, name: str, error: Exception) -> DataError:
    reason = printable(str(error) or type(error).__name__)
    return DataError([f"{path}: {printable(name)} is not a CIFAR batch: {reason}; use the official archive"])


def _load(content: bytes) -> Any:
    for opcode, argument, _ in pickletools.genops(content):
        # the unpickler allocates its memo up to the largest index: 70 GB for one damaged byte
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError("it numbers more objects than it has bytes")
    return _Unpickler(io.BytesIO(content), encoding="bytes").load()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _ByteType:
    """Stands for numpy's dtype of bytes. Its state in the file is ignored: a crafted one would make numpy read memory
    beyond its buffers."""

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for a numpy array, of which it keeps the shape and bytes that the file states, unchecked."""

    shape: Any = ()
    content: bytes = b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, kind, in_columns, content = state
        if not isinstance(kind, _ByteType) or in_columns or not isinstance(content, bytes):
            raise pickle.UnpicklingError("it contains an array whose elements are not bytes, row by row")
        self.content = content


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    if kind != _ARRAY or shape != (0,) or _text(code) != "b":
        raise pickle.UnpicklingError("it contains an unexpected array")
    return _Array()


def _byte_type(code: Any, align: Any = False, copy: Any = True) -> _ByteType:
    if _text(code) != "u1":
        raise pickle.UnpicklingError("it contains an array whose elements are not bytes")
    return _ByteType()


def _latin1(text: Any, encoding: Any) -> bytes:
    if _text(encoding) != "latin1":
        raise pickle.UnpicklingError("it contains an unexpected encoding")
    return text.encode("latin1") if isinstance(text, str) else text


_ARRAY = "ndarray"  # a string instead of the class, so that the pickle cannot call it
_ALLOWED: dict[tuple[str, str], str | Callable[..., Any]] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _byte_type,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("_codecs", "encode"): _latin1,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that allows only the functions that byte arrays need, with checked arguments."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed and may be malicious")
        return _ALLOWED[module, name]

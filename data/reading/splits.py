"""Names of splits, as folders, tables and packed files spell them."""

from __future__ import annotations

import re
import unicodedata

_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_ROLES = {word: split for split, words in _WORDS.items() for word in words}
_NAME = re.compile(
    rf"({'|'.join(sorted(_ROLES, key=len, reverse=True))})s?([ _.-]*(sets?|splits?|data|images?|imgs?))?"
)
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
READ_AS_SPLITS = "train, val and test (also Training, valid, dev, test_set, ...)"


def split_of(name: str) -> str | None:
    """The split, train, val or test, with this name in any case, plural or common spelling (Training, valid, test_set);
    None if it is not the name of a split."""
    match = _NAME.fullmatch(unicodedata.normalize("NFKC", name).strip().casefold())
    return _ROLES[match[1]] if match else None


def resembles(name: str) -> str | None:
    """The split whose name is one of the words of this name (seg_train, TestImages2), or None."""
    words = (word.casefold() for word in _TOKEN.findall(name))
    roles = {_ROLES[word] for word in words if word in _ROLES}
    return split_of(name) or (roles.pop() if len(roles) == 1 else None)

"""Which files look as if they held a secret: by their names, and by what detect-secrets finds in their contents."""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

CODE = frozenset(".py .pyi .pyx .pxd .c .cc .cpp .cu .cuh .h .hpp".split())  # suffixes
_STEMS = re.compile(
    r"(.*[._-])?(secrets?|credentials?|passwords?|passwd|api[._-]?keys?)|\.env\b.*|\.?(netrc|pgpass|htpasswd)", re.I
)
_STEMS_OF_SETTINGS = re.compile(r"(.*[._-])?tokens?", re.I)  # in code, tokens are also those of a language
_FILES = re.compile(
    r"id_(rsa|dsa|ecdsa|ed25519).*|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg)|\.(pypirc|npmrc)", re.I
)
# what detect-secrets 1.5 finds only in quotes, or, as tokens of GitHub, also in the middle of a name
_TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|gh[opusr]_[A-Za-z0-9]{36}|AIza[\w-]{35}|glpat-[\w-]{20,})"
    r"|(?i:\b[\w-]*(token|passphrase)\s*[:=]\s*[\w.-]{20,}|\bbearer\s+[\w.-]{20,})"
    r"|(?i:[?&](api_?key|key|token|password|passwd|pwd|secret)=[\w%.~-]{6,})"
)
_DIGEST = re.compile(r"sha-?\d|md5|digest|checksum|hash|etag|commit|revision", re.I)
_OFF = {"IPPublicDetector", "GitHubTokenDetector"}  # an address is not secret
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def suspicious(files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the reason for each file that looks as if it held a secret. files: name -> content.

    A line with the comment `pragma: allowlist secret` is not examined. Nothing is sent anywhere: the filters of
    detect-secrets that ask a service whether a secret is valid stay off.
    """
    found = {name: _by_name(PurePosixPath(name)) or _by_content(name, content) for name, content in files.items()}
    return {name: reason for name, reason in found.items() if reason}


def _by_name(path: PurePosixPath) -> str | None:
    secret = _FILES.fullmatch(path.name) or _STEMS.fullmatch(path.stem) or _STEMS.fullmatch(path.name)
    token = path.suffix not in CODE and _STEMS_OF_SETTINGS.fullmatch(path.stem)
    return "its name is that of a secret" if secret or token else None


@lru_cache(maxsize=1000)  # the runs of a study share their sources
def _by_content(name: str, content: bytes) -> str | None:
    path = PurePosixPath(name)
    lines = _text(path.suffix, content).splitlines()
    for number, line in enumerate(lines, 1):
        if _TOKENS.search(line) and "pragma: allowlist" not in line:
            return f"line {number} looks like a token"
    return _detected(path, lines)


def _detected(path: PurePosixPath, lines: list[str]) -> str | None:
    from detect_secrets.core.scan import scan_file
    from detect_secrets.settings import transient_settings

    # by way of a file, because detect-secrets parses settings by their suffix; a secret is ASCII
    suffix = ".py" if path.suffix == ".ipynb" else re.sub(r"[^.\w]", "", path.suffix)
    with tempfile.TemporaryDirectory() as folder, transient_settings(_settings()):
        copy = Path(folder) / f"copy{suffix}"
        copy.write_bytes("\n".join(lines).encode("ascii", "replace"))
        for found in scan_file(str(copy)):
            near = "\n".join(lines[max(0, found.line_number - 5) : found.line_number])
            if not (found.type.startswith("Hex High") and _DIGEST.search(near)):
                return f"line {found.line_number} looks like a secret ({found.type})"
    return None


@cache
def _settings() -> dict[str, Any]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    detectors: Mapping[str, type] = get_mapping_from_secret_type_to_class()
    names = {detector.__name__ for detector in detectors.values()} - _OFF
    heuristics = "sequential_string potential_uuid templated_secret indirect_reference prefixed_with_dollar_sign"
    filters = ["allowlist.is_line_allowlisted", *(f"heuristic.is_{name}" for name in heuristics.split())]
    return {
        "plugins_used": [{"name": name} for name in sorted(names)],
        "filters_used": [{"path": f"detect_secrets.filters.{name}"} for name in filters],
    }


def _text(suffix: str, content: bytes) -> str:
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    text = content.decode(encoding, errors="replace")
    if suffix == ".ipynb":  # its code is quoted, and its pictures are random letters
        text = re.sub(r'"image/(png|jpeg)": "[^"]*"', "", text).replace('\\"', '"').replace("\\n", "")
    return text

"""Names in pictures: drawn as text on one line, in a font that has their letters, or as an announced stand-in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from core.common.terminal import tell

DEFAULT = "sans-serif"  # DejaVu Sans, which comes with matplotlib, unless the user has chosen another
_LETTER = re.compile(r"[A-Z -]+ (?:LETTER|SYLLABLE|VOWEL SIGN) (?:SMALL |FINAL )?([A-Z]+)")
_MOST_SHOWN = 10  # letters that the announcement lists
_announced: set[str] = set()


class Font(NamedTuple):
    """A font file. face: number of the font in a collection.  has: the letters asked for that it has."""

    family: str
    path: str
    face: int
    has: frozenset[str]


@contextmanager
def drawing(texts: Iterable[str]) -> Iterator[Callable[[str], str]]:
    """Context manager: matplotlib finds a font for every letter of the texts. Yields the function that each text has to
    pass before it is drawn, so that it is no mathematical formula."""
    from matplotlib import rc_context

    fonts, missing = fonts_for(texts)
    with rc_context({"font.family": [font.family for font in fonts]}):
        yield lambda text: with_stand_ins(one_line(text), missing).replace("$", r"\$")


def fonts_for(texts: Iterable[str]) -> tuple[list[Font], frozenset[str]]:
    """Returns (the default font and others that are needed for the texts, the letters that no installed font has)."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    letters = {letter for text in texts for letter in one_line(text) if not letter.isspace()}
    first = findfont(FontProperties(family=[DEFAULT]))
    others = (entry for entry in fontManager.ttflist if entry.style == "normal" and "Last Resort" not in entry.name)
    candidates = [(DEFAULT, first, 0), *((each.name, each.fname, getattr(each, "index", 0)) for each in others)]
    fonts: list[Font] = []
    for family, path, index in candidates:
        if fonts and not letters:
            break
        try:
            font = get_font(path)
            has = frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
        except (OSError, RuntimeError):  # a font that was uninstalled, or is damaged
            continue
        if has or not fonts:
            fonts.append(Font(family, str(path), index, has))
            letters -= has
    _announce(letters)
    return fonts, frozenset(letters)


def one_line(text: str) -> str:
    """Returns the text with control characters as spaces, and bytes that are not UTF-8 as replacement characters."""
    kinds = ((unicodedata.category(letter), letter) for letter in text)
    shown = (" " if k in ("Cc", "Zl", "Zp") else "\ufffd" if k == "Cs" else "" if k == "Cf" else x for k, x in kinds)
    return "".join(shown)


def with_stand_ins(text: str, missing: frozenset[str]) -> str:
    """Returns the text with stand-ins for missing letters: the sound in the letter's name, or else its code point."""
    return "".join(_stand_in(letter) if letter in missing else letter for letter in text)


def _stand_in(letter: str) -> str:
    named = _LETTER.fullmatch(unicodedata.name(letter, ""))
    return named[1].lower() if named else f"[{ord(letter):X}]"


def _announce(missing: set[str]) -> None:
    new = sorted(missing - _announced)
    if new:
        _announced.update(new)
        shown = ", ".join(f"{letter} as {_stand_in(letter)}" for letter in new[:_MOST_SHOWN])
        more = f", and {len(new) - _MOST_SHOWN} more" if len(new) > _MOST_SHOWN else ""
        tell(f"no installed font has these letters, so pictures show {shown}{more}; Noto Sans has most scripts")

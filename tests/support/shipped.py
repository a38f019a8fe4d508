"""The experiments of this repository, without those that only tests know."""

from pathlib import Path

from core.catalogue import Entry, entries

ROOT = Path(__file__).resolve().parents[2]
SHIPPED: list[Entry] = [entry for entry in entries() if (ROOT / "experiments" / entry.name).is_dir()]

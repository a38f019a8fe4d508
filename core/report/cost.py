"""The cost of a run: time, memory, arithmetic, energy."""

from __future__ import annotations

from statistics import median

from core.common.text import duration
from core.record import journal
from core.record.run import RecordedRun, last
from core.tracking.cursor import SYSTEM

_GAP = 60.0  # s without a sample, for which the power is unknown
_WATTS = ("system/gpu_", "_power_usage_watts")


def cost(run: RecordedRun) -> dict[str, str]:
    """Name -> text; unknown values are omitted."""
    facts, history = run.record["facts"], run.history
    metrics = last(history)
    rates = list(history.get("images_per_second", {}).values())
    told = {
        "training time": duration(seconds) if round(seconds := run.seconds) >= 60 else f"{seconds:.1f} s",
        "images per second": f"{median(rates):,.0f} (median of {len(rates)} epochs)" if rates else "",
        "peak memory": f"{metrics['peak_memory_mb']:,.0f} MB" if "peak_memory_mb" in metrics else "",
        "parameters": f"{int(facts['parameters']):,}",
        "forward pass of one image": f"{int(facts['flops']):,} FLOPs" if facts.get("flops", "").isdigit() else "",
        "energy of the GPUs": f"{joules / 3600:,.1f} Wh" if (joules := energy(run)) else "",
        "device": facts.get("hardware.gpu") or f"{facts['hardware.cpu']}, {facts['hardware.threads']} threads",
        "precision": facts.get("precision", ""),
    }
    return {name: text for name, text in told.items() if text}


def energy(run: RecordedRun) -> float:
    """Energy of the GPUs in joules, from the power that their driver reports every few seconds; 0 without a report."""
    total = 0.0
    last: dict[str, tuple[int, float]] = {}
    for _, event in journal.read(run.folder, SYSTEM):
        for name, watts in event.get("values", {}).items() if event["event"] == "metrics" else ():
            if name.startswith(_WATTS[0]) and name.endswith(_WATTS[1]):
                before, power = last.get(name, (event["time"], watts))
                seconds = (event["time"] - before) / 1000
                total += seconds * (power + watts) / 2 if seconds <= _GAP else 0.0
                last[name] = event["time"], watts
    return total

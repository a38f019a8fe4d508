"""The cost of a run: time, memory, arithmetic, energy."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from core.common.text import duration
from core.record import journal
from core.record.run import MICRO_BATCHES, RecordedRun, last
from core.tracking.cursor import SYSTEM

_GAP = 60.0  # s; if two samples are further apart, the power between them is unknown
_WATTS = ("system/gpu_", "_power_usage_watts")


def cost(run: RecordedRun) -> dict[str, str]:
    """Returns the cost of a run, name -> text; unknown values are omitted."""
    facts, history = run.record["facts"], run.history
    metrics = last(history)
    rates = list(history.get("images_per_second", {}).values())
    texts = {
        "training time": duration(seconds) if round(seconds := run.seconds) >= 60 else f"{seconds:.1f} s",
        "images per second": f"{median(rates):,.0f} (median of {len(rates)} epochs)" if rates else "",
        "peak memory": f"{metrics['peak_memory_mb']:,.0f} MB" if "peak_memory_mb" in metrics else "",
        "memory of the GPU": _of_gpu(history),
        "micro-batches": f"{divided}, because memory ran out" if (divided := run.tags.get(MICRO_BATCHES)) else "",
        "parameters": f"{int(facts['parameters']):,}",
        "forward pass of one image": f"{int(facts['flops']):,} FLOPs" if facts.get("flops", "").isdigit() else "",
        **{f"{name} compression": _footprint(found) for name, found in run.compression.items()},
        "energy of the GPUs": f"{joules / 3600:,.1f} Wh" if (joules := energy(run)) else "",
        "device": facts.get("hardware.gpu") or f"{facts['hardware.cpu']}, {facts['hardware.threads']} threads",
        "precision": facts.get("precision", ""),
    }
    return {name: text for name, text in texts.items() if text}


def _of_gpu(history: Mapping[str, Mapping[int, float]]) -> str:
    """What tensors and the allocator took at most at the end of a logging interval, and how much of it lay idle."""
    used, reserved, idle = (
        history.get(f"system/torch_memory_{name}", {}).values()
        for name in ("allocated_megabytes", "reserved_megabytes", "fragmentation")
    )
    if not reserved:
        return ""
    most = f"at most {max(used):,.0f} MB allocated and {max(reserved):,.0f} MB reserved between steps"
    return f"{most}, fragmentation {median(idle):.0%} (median), {max(idle):.0%} (maximum)"


def _footprint(found: Mapping[str, Any]) -> str:
    flops = f"{found['flops']:,} FLOPs" if found["flops"] else "unknown FLOPs"
    parameters = f"{found['parameters']:,} parameters, {found['nonzero']:,} of them not zero"
    return f"{parameters}, {flops}, {found['latency_ms']:.3f} ms for one image in PyTorch"


def energy(run: RecordedRun) -> float:
    """Returns the energy of the GPUs in joules, from the power that the driver reports; 0 if it reports none."""
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

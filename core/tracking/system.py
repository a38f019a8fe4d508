"""Load of the machine, under the names that MLflow's page "System metrics" looks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor


def monitors() -> list[BaseMetricsMonitor]:
    """MLflow's own monitors, those that work on this machine, ready to be sampled."""
    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_graphics()]
    sample(found)  # psutil's first CPU load is 0: it measures from one call to the next
    return found


def sample(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    """Metric name -> value now."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _graphics() -> Iterator[BaseMetricsMonitor]:
    """At most one: each raises an error of its own on a machine without such a card."""
    for kind in (GPUMonitor, ROCMMonitor):
        with contextlib.suppress(Exception):
            yield kind()
            return

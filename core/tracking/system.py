"""System metrics, under the names that MLflow's page "System metrics" shows."""

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
    """Returns those of MLflow's monitors that work on this machine."""
    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_graphics()]
    sample(found)  # psutil's first CPU load is 0: it measures from one call to the next
    return found


def sample(monitors: list[BaseMetricsMonitor]) -> dict[str, float]:
    """Returns metric name -> current value."""
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
        monitor.clear_metrics()
    return values


def _graphics() -> Iterator[BaseMetricsMonitor]:
    """Yield at most one GPU monitor: each raises an error on a machine without a GPU of its kind."""
    for kind in (GPUMonitor, ROCMMonitor):
        with contextlib.suppress(Exception):
            yield kind()
            return

"""The part Launcher: the resources that `labbook launch` requests from Slurm, from Ray, or from this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from core.declare.part import Part

NOT_LOCAL = ("cpus_per_task", "mem_gb")
ONLY_SLURM = ("partition", "account", "qos", "constraint", "setup", "sbatch")


class Launcher(Part):
    """Options of the verb launch: the resources of a job, whose tasks are started as torchrun starts its processes."""

    cluster: Literal["local", "slurm", "ray"] = Field(
        "local", description="where the job runs: local (this machine), slurm, or ray"
    )
    address: str | None = Field(
        None, description="HOST:PORT of the head of the Ray cluster; none: $RAY_ADDRESS, or that of this machine"
    )
    nodes: int = Field(1, ge=1, description="number of nodes")
    tasks_per_node: int | None = Field(None, ge=1, description="processes per node; none: one per GPU, at least one")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs per node; none: with local, all visible GPUs")
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores per task; none: the cluster's default")
    mem_gb: float | None = Field(None, gt=0, description="memory per node in GB; none: the cluster's default")
    hours: float = Field(24.0, gt=0, description="time limit of one round in hours; the next round resumes the run")
    rounds: int = Field(
        10, ge=1, description="maximum number of rounds; with local, at most 6; with ray, a lost node ends one"
    )
    save_seconds: int = Field(120, ge=1, description="seconds before the time limit at which a task saves and stops")
    partition: str | None = Field(None, description="Slurm partition; none: the cluster's default")
    account: str | None = Field(None, description="Slurm account that is charged")
    qos: str | None = Field(None, description="Slurm quality of service")
    constraint: str | None = Field(None, description="node features required, as a Slurm constraint")
    setup: tuple[str, ...] = Field(
        (), description="shell commands to run before the tasks: a JSON list, or comma-separated"
    )
    sbatch: tuple[str, ...] = Field((), description="other options of sbatch, name=value or name: a list like setup")
    wait: bool | None = Field(None, description="show the log and exit with the job's status; none: with local only")

    @field_validator("sbatch")
    @classmethod
    def _sbatch_options_have_names(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in options if text.startswith("-") or not text.partition("=")[0]]:
            raise ValueError(f"should be name=value without dashes, not {', '.join(wrong)}")
        return options

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node or 0)

    @property
    def waits(self) -> bool:
        return self.cluster == "local" if self.wait is None else self.wait

    def mistakes(self) -> Iterator[str]:
        """Messages about options that cannot be combined, or cannot be used on this machine."""
        if self.gpus_per_node and self.tasks > self.gpus_per_node:
            yield f"--tasks_per_node {self.tasks}: each task uses a GPU, but --gpus_per_node is {self.gpus_per_node}"
        if self.save_seconds >= self.hours * 3600:
            yield f"--save_seconds {self.save_seconds}: the time limit is only {self.hours:g} hours"
        foreign = {"slurm": ("address",), "ray": ONLY_SLURM, "local": ("address", *NOT_LOCAL, *ONLY_SLURM)}[
            self.cluster
        ]
        given = [name for name in foreign if getattr(self, name) != type(self).model_fields[name].default]
        yield from (f"--{name}: this option requires {_where(name)}" for name in given)
        if self.cluster == "slurm":
            if missing := [name for name in ("sbatch", "srun", "scontrol") if not shutil.which(name)]:
                yield f"--cluster slurm: {', '.join(missing)} not found; run it on a machine that can submit jobs"
            return
        if self.cluster == "ray":
            return
        if self.nodes > 1:
            yield f"--nodes {self.nodes}: --cluster local has one node; use --cluster slurm or --cluster ray"
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if seen is not None and (self.gpus_per_node or 0) > len(seen.split(",")):
            yield f"--gpus_per_node {self.gpus_per_node}: CUDA_VISIBLE_DEVICES={seen} has fewer GPUs"


def _where(option: str) -> str:
    """The clusters that have an option."""
    if option in NOT_LOCAL:
        return "--cluster slurm or --cluster ray"
    return "--cluster ray" if option == "address" else "--cluster slurm"

"""What `labbook launch` asks of a cluster, or of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, field_validator

from core.declare.part import Part

ONLY_SLURM = ("cpus_per_task", "mem_gb", "partition", "account", "qos", "constraint", "setup", "sbatch")


class Launcher(Part):
    """What a job asks of the cluster."""

    cluster: Literal["local", "slurm"] = Field("local", description="local (this machine) or slurm")
    nodes: int = Field(1, ge=1, description="machines")
    tasks_per_node: int | None = Field(None, ge=1, description="processes on each; none: one per GPU, at least one")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs on each; none: on local all that are visible here")
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores of a task; none: the cluster's default")
    mem_gb: float | None = Field(None, gt=0, description="memory of a node in GB; none: the cluster's default")
    hours: float = Field(24.0, gt=0, description="time limit of one round; the run goes on in the next round")
    rounds: int = Field(10, ge=1, description="how often it may reach its time limit; on local 6 at most")
    save_seconds: int = Field(120, ge=1, description="how long before the time limit a task is told to save and stop")
    partition: str | None = Field(None, description="of Slurm; none: the cluster's default")
    account: str | None = Field(None, description="of Slurm, that pays")
    qos: str | None = Field(None, description="quality of service of Slurm")
    constraint: str | None = Field(None, description="features that a node must have, in Slurm's words")
    setup: tuple[str, ...] = Field((), description="shell commands before the tasks, as a JSON list or comma-separated")
    sbatch: tuple[str, ...] = Field((), description="other options of sbatch, name=value or name; a list like setup")
    wait: bool | None = Field(None, description="show the log, end with the job's status; none: on local only")

    @field_validator("sbatch")
    @classmethod
    def _sbatch_options_have_names(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in options if text.startswith("-") or not text.partition("=")[0]]:
            raise ValueError(f"should be name=value without dashes, not {', '.join(wrong)}")
        return options

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node or 0)

    @property
    def waits(self) -> bool:
        return self.cluster == "local" if self.wait is None else self.wait

    def mistakes(self) -> Iterator[str]:
        """What cannot be had together, or not here."""
        if self.gpus_per_node and self.tasks > self.gpus_per_node:
            yield f"--tasks_per_node {self.tasks}: a task takes a GPU, and --gpus_per_node is {self.gpus_per_node}"
        if self.save_seconds >= self.hours * 3600:
            yield f"--save_seconds {self.save_seconds}: leaves nothing of {self.hours:g} hours"
        if self.cluster == "slurm":
            if missing := [name for name in ("sbatch", "srun", "scontrol") if not shutil.which(name)]:
                yield f"--cluster slurm: there is no {', '.join(missing)} here; type it where jobs are submitted"
            return
        if self.nodes > 1:
            yield f"--nodes {self.nodes}: local is one machine; for more: --cluster slurm"
        given = [name for name in ONLY_SLURM if getattr(self, name) != type(self).model_fields[name].default]
        yield from (f"--{name}: only --cluster slurm knows it" for name in given)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if seen is not None and (self.gpus_per_node or 0) > len(seen.split(",")):
            yield f"--gpus_per_node {self.gpus_per_node}: CUDA_VISIBLE_DEVICES={seen} shows fewer"

"""Launch: where and how a run is executed. Nothing here changes a result beyond rounding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from core.declare.part import Part


class Launch(Part):
    """Recorded as tags. Not part of the declaration: two runs that differ only here are comparable."""

    root: Path | None = Field(
        None, description="folder of the data; none: data/store, to which data are downloaded if needed"
    )
    device: str = Field("auto", description="device: cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    threads: int | None = Field(
        None, ge=1, le=512, description="CPU threads; none: OMP_NUM_THREADS, or all cores that this process may use"
    )
    workers: int | None = Field(None, ge=0, description="loader worker processes; none: 0 on a CPU, up to 8 on a GPU")
    prefetch: int | None = Field(
        None, ge=1, le=64, description="batches that each loader worker prepares ahead; none: 2, as torch does"
    )
    worker_timeout: int = Field(
        300, ge=1, description="seconds without a batch after which a loader worker process is considered dead"
    )
    resident: bool | None = Field(
        None, description="keep all images in the memory of the device; none: if they fit into a quarter of it"
    )
    eval_batch_size: int | None = Field(
        None, ge=1, description="images per batch and process in validation and test; none: 512"
    )
    cache_features: bool = Field(
        True, description="if only the head is trained, on images without augmentation: compute its inputs once"
    )
    together: bool = Field(
        False, description="with --seeds: train all seeds at once in this process, each as it would be alone"
    )
    log_every: int | None = Field(
        None, ge=1, description="optimizer steps between logged step/ metrics; none: 20 times per epoch"
    )
    checkpoint_every: str = Field("1m", description="checkpoint interval: optimizer steps (500) or time (90s, 5m, 1h)")
    parallel: Literal["ddp", "fsdp", "pipeline"] = Field(
        "ddp",
        description="what each of several processes has: ddp: the whole network, and a share of each batch; fsdp: a "
        "shard of each weight, of its gradient and of the optimizer's state, and a share of each batch; pipeline: some "
        "blocks of the network",
    )
    microbatches: int = Field(
        4, ge=1, description="with pipeline: parts of each micro-batch that the processes work on at the same time"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile the step with torch.compile; auto: on a GPU, if the run has at least 5,000 steps",
    )
    deterministic: bool = Field(False, description="deterministic algorithms on a GPU, which are slower")
    deterministic_ranks: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="the same bits on 1, 2, 4, ... up to this many processes, a power of two: each batch is computed "
        "in this many virtual shards, whose gradients are added in a fixed order; in fp32 on CPUs, with one thread "
        "unless threads is given; none: the number of processes changes the order of sums",
    )
    smoke: bool = Field(
        False,
        description="smoke test: run every step of the pipeline on a few batches in one epoch; in two with Resize",
    )
    overfit: int | None = Field(
        None, ge=2, description="train repeatedly on one batch of this many images and report whether it is learned"
    )
    profile: bool = Field(False, description="profile a few steps: trace, most expensive operations, memory")
    diagnose: bool = Field(
        False, description="log per epoch and layer: gradient norm, update-to-weight ratio, fraction of dead ReLU units"
    )
    detect_anomaly: bool = Field(
        False, description="find the operation whose gradient first becomes NaN; training is several times slower"
    )
    snapshot: Literal["none", "code", "all"] = Field(
        "code",
        description="uncommitted code that is recorded; code: the diff, and untracked sources next to imported ones; "
        "all: untracked settings and notes, too. What looks like a secret is left out",
    )
    mlflow: bool = Field(True, description="send the run to MLflow; if false, labbook sync can send it later")

    also: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (),
        description="further trackers of the run, each fed by a process of its own: tensorboard, wandb (offline), "
        "trackio",
    )

    notify: str | None = Field(
        None,
        description="alert when a run or search has ended: a command that gets JSON on standard input, or a URL to "
        "which it is posted; none: $LABBOOK_NOTIFY. It is not on record, because a URL is often a secret",
    )

    def record(self) -> dict[str, Any]:
        """JSON that `read` turns into an equal part, but for `notify`."""
        return super().record() | {"notify": None}

    @field_validator("checkpoint_every")
    @classmethod
    def _checkpoint_every_is_steps_or_time(cls, text: str) -> str:
        if not re.fullmatch(r"[1-9]\d*[smh]?", text):
            raise ValueError("should be a number of steps (500) or a time (90s, 5m, 1h)")
        return text

    @field_validator("deterministic_ranks")
    @classmethod
    def _deterministic_ranks_is_a_power_of_two(cls, shards: int | None) -> int | None:
        if shards and shards.bit_count() != 1:
            lower = 1 << (shards.bit_length() - 1)
            raise ValueError(f"should be a power of two, such as {lower} or {2 * lower}")
        return shards

    @field_validator("device")
    @classmethod
    def _device_has_a_known_name(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
            raise ValueError("should be auto, cpu, cuda, cuda:N or mps")
        return name

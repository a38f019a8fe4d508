"""Launch: where and how a run goes. Nothing here changes a result beyond rounding."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from core.declare.part import Part


class Launch(Part):
    """Recorded as tags. Not part of the declaration: two runs that differ only here are comparable."""

    root: Path | None = Field(None, description="where the data are; none: data/store, downloaded at need")
    device: str = Field("auto", description="cpu, cuda, cuda:1, mps; auto takes the best there is")
    threads: int | None = Field(None, ge=1, le=512, description="CPU threads; none: as many as this process may use")
    workers: int | None = Field(
        None, ge=0, description="processes that load images; none: 0 on a CPU, up to 8 on a GPU"
    )
    worker_timeout: int = Field(
        300, ge=1, description="seconds without a batch after which such a process counts as dead"
    )
    resident: bool | None = Field(None, description="keep the images on the device; none: if they fit a quarter of it")
    cache_features: bool = Field(
        True, description="compute once what goes into the head, where freeze leaves that alone to train, unaugmented"
    )
    log_every: int | None = Field(None, ge=1, description="steps between step/ metrics; none: 20 times an epoch")
    checkpoint_every: str = Field("1m", description="steps (500) or time (90s, 5m) between checkpoints")
    deterministic: bool = Field(False, description="the same bits on a GPU too, at some speed")
    smoke: bool = Field(False, description="every step of the pipeline in seconds: a few batches, one epoch")
    overfit: int | None = Field(
        None, ge=2, description="train on one batch of so many images over and over, and tell whether it is learnt"
    )
    profile: bool = Field(False, description="keep a trace, the dearest operations and memory of a few steps")
    diagnose: bool = Field(
        False, description="per epoch and layer: gradient norm, update over weight, share of dead ReLU units"
    )
    detect_anomaly: bool = Field(
        False, description="name the operation whose gradient is first not a number; several times slower"
    )
    mlflow: bool = Field(True, description="mirror the run to MLflow; without, labbook sync does it later")

    @field_validator("checkpoint_every")
    @classmethod
    def _checkpoint_every_is_steps_or_time(cls, text: str) -> str:
        if not re.fullmatch(r"[1-9]\d*[smh]?", text):
            raise ValueError("should be a number of steps (500) or a time (90s, 5m, 1h)")
        return text

    @field_validator("device")
    @classmethod
    def _device_has_a_known_name(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
            raise ValueError("should be auto, cpu, cuda, cuda:N or mps")
        return name

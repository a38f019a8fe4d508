"""The options of the verb search."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from core.declare.part import Part

COSTS = ("parameters", "seconds", "latency_ms")  # goals that are not metrics


class Search(Part):
    """Options of the verb search."""

    trials: int = Field(50, ge=1, description="total number of trials, including those of earlier calls")
    workers: int = Field(1, ge=1, le=1024, description="worker processes that train trials; they share the CPU threads")
    cluster: Literal["local", "ray"] = Field(
        "local", description="where workers run: local (this machine), or ray (nodes of a Ray cluster)"
    )
    address: str | None = Field(
        None, description="HOST:PORT of the head of the Ray cluster; none: $RAY_ADDRESS, or that of this machine"
    )
    workers_per_gpu: int = Field(1, ge=1, le=64, description="worker processes per GPU")
    at_once: int = Field(
        1,
        ge=1,
        le=256,
        description="number of trials that a worker trains at once, stacked, as far as they differ in numbers alone: "
        "for tiny networks, and for GPUs",
    )
    loader_workers: int | None = Field(
        None, ge=0, description="loader worker processes of each trial; none: chosen as in training"
    )
    goal: tuple[str, ...] = Field(
        (),
        description="objective: a validation metric, parameters, seconds, latency_ms (of one image), or several; none: "
        "the declared monitor",
    )
    epoch: Literal["best", "last"] = Field("best", description="epoch whose metric is the objective")
    folds: int | None = Field(
        None, ge=2, description="judge each trial by its mean over this number of folds; none: by the val split"
    )
    sampler: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = Field(
        "tpe", description="sampler: proposes the hyperparameters of a trial"
    )
    pruner: Literal["median", "hyperband", "halving", "patient", "percentile", "thaw", "none"] = Field(
        "median",
        description="pruner: stops unpromising trials early; thaw: pauses them, and resumes those that rank "
        "among the best",
    )
    race: int | None = Field(
        None,
        ge=2,
        description="racing: a trial gets further seeds, up to this number, while it may beat the best; none: a trial "
        "has one seed",
    )
    timeout: str | None = Field(
        None, description="time (90s, 30m, 8h) after which no new trial is started; none: no limit"
    )
    confirm: int = Field(
        0,
        ge=0,
        description="number of best trials that are retrained with new seeds (--seeds, 3 by default) and tested",
    )
    keep: int = Field(3, ge=0, description="number of best trials whose weights are kept; with folds, none are")
    storage: str | None = Field(
        None,
        description="URL of a database that machines share (postgresql, mysql+pymysql, grpc); none: a local file",
    )
    study: str | None = Field(None, description="name of the study; none: the names of the experiment and the variant")
    new: bool = Field(False, description="start a new study, even if one with this name exists")

    @field_validator("timeout")
    @classmethod
    def _timeout_is_a_time(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"[1-9]\d*[smh]", text):
            raise ValueError("should be a time (90s, 30m, 8h)")
        return text

    @field_validator("study")
    @classmethod
    def _study_names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError("should be letters, digits, - and _")
        return name

    @property
    def seconds(self) -> float | None:
        """The timeout in seconds."""
        return int(self.timeout[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.timeout[-1]] if self.timeout else None

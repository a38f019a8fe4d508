"""What `search` is told on the command line."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from core.declare.part import Part

COSTS = ("parameters", "seconds")  # goals that are no metrics: smaller is better


class Search(Part):
    """Options of the verb search."""

    trials: int = Field(50, ge=1, description="trials in all, those of earlier calls included")
    workers: int = Field(1, ge=1, le=512, description="processes that train trials; they share the CPU's threads")
    workers_per_gpu: int = Field(1, ge=1, le=64, description="how many of them share a GPU")
    loader_workers: int | None = Field(None, ge=0, description="processes that load images, for each worker")
    goal: tuple[str, ...] = Field(
        (),
        description="validation metric (none: the declared `monitor`), or several goals, also parameters and seconds",
    )
    epoch: Literal["best", "last"] = Field("best", description="the epoch whose metric counts")
    sampler: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"] = Field("tpe", description="what proposes trials")
    pruner: Literal["median", "hyperband", "halving", "patient", "percentile", "none"] = Field(
        "median", description="what ends hopeless trials early"
    )
    timeout: str | None = Field(None, description="time (90s, 30m, 8h) after which no trial begins")
    confirm: int = Field(0, ge=0, description="retrain so many of the best trials on --seeds fresh seeds (3), and test")
    keep: int = Field(3, ge=0, description="weights are kept of trials among so many best when they end")
    storage: str | None = Field(
        None,
        description="URL of a database that machines share (postgresql, mysql+pymysql, grpc); none: a file here",
    )
    study: str | None = Field(None, description="name of the study; none: the experiment's, with the variant's")
    new: bool = Field(False, description="begin a fresh study beside the one of this name")

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

"""LossScale: how the gradients of fp16 are scaled."""

from __future__ import annotations

import torch
from pydantic import Field

from core.declare.part import Part


class LossScale(Part):
    """Loss scaling of fp16 training (Micikevicius et al. 2018, section 3.2), by torch.amp.GradScaler.

    The loss is multiplied by the scale, so that small gradients do not vanish in fp16, and gradients are divided by it
    before the step. The scale is halved, and the step skipped, when gradients overflow, and doubled after
    `growth_interval` steps without an overflow. A scale that is fixed stays; steps that overflow are skipped, and if
    all steps between two log entries are, training ends with an error. Other precisions have no scale.
    """

    init_scale: float = Field(65_536.0, gt=0, le=2.0**60, description="scale of the first step")
    growth_interval: int = Field(
        2000, ge=1, description="number of steps without an overflow after which the scale is doubled"
    )
    fixed: bool = Field(False, description="keep init_scale for the whole training (static loss scaling)")

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """torch's scaler for a kind of device."""
        return torch.amp.GradScaler(device.type, init_scale=self.init_scale, growth_interval=self.growth_interval)

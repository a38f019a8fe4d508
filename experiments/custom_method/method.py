"""A custom method, which defines what a training step computes."""

import torch
from pydantic import Field
from torch import nn

from core.loading.batches import Batch
from core.methods import LossFunction, Method, Output
from core.schedules import Clock


class ConfidencePenalty(Method):
    """Confidence penalty (Pereyra et al. 2017, equation 3): the loss minus beta times the entropy of the prediction."""

    beta: float = Field(0.1, ge=0, description="weight of the entropy (in nats) of the predicted probabilities")

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        logits = model(batch.images)
        log_p = logits.float().log_softmax(dim=1)
        entropy = torch.distributions.Categorical(logits=log_p).entropy()
        return Output(loss(logits, batch.targets) - self.beta * entropy, logits)

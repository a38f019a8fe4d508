"""A recurrent network over the rows of an image."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from core.context import Context
from core.models.base import Model

CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class RowRNN(Model):
    """A recurrent network that reads an image row by row, from images [N, C, H, W] to logits [N, classes].

    The sequence has one element for each row, of channels * width pixels; a linear layer computes the logits from the
    last output of the top layer, and of both directions if bidirectional. LSTM: Hochreiter and Schmidhuber 1997; GRU:
    Cho et al. 2014, section 2.3; RNN: Elman 1990, with tanh.
    """

    cell: Literal["LSTM", "GRU", "RNN"] = Field("LSTM", description="recurrent layer, a class of torch.nn")
    hidden: Annotated[int, Field(ge=1, le=1 << 16)] = Field(128, description="number of units of each layer")
    layers: int = Field(1, ge=1, le=64, description="number of recurrent layers, one above the other")
    bidirectional: bool = Field(False, description="read the rows from below, too")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability before the last layer")

    def network(self, context: Context) -> nn.Module:
        _, width, channels = context.image_shape
        size, layers, both = channels * width, self.layers, self.bidirectional
        recurrent = CELLS[self.cell](size, self.hidden, layers, batch_first=True, bidirectional=both)
        return _RowRNN(recurrent, self.dropout, self.hidden * (1 + both), len(context.classes))


class _RowRNN(nn.Module):
    def __init__(self, recurrent: nn.RNNBase, dropout: float, outputs: int, classes: int):
        super().__init__()
        self.recurrent, self.dropout = recurrent, nn.Dropout(dropout)
        self.fc = nn.Linear(outputs, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = images.permute(0, 2, 1, 3).flatten(2)  # [N, H, C * W]
        outputs, _ = self.recurrent(rows)
        half = self.recurrent.hidden_size
        last = outputs[:, -1, :half]  # the direction from above has seen all rows in the last element,
        if self.recurrent.bidirectional:  # that from below in the first one
            last = torch.cat([last, outputs[:, 0, half:]], dim=1)
        logits: torch.Tensor = self.fc(self.dropout(last))
        return logits

"""First weights by declaration."""

from __future__ import annotations

from torch import nn

RECTIFIED = 2**0.5  # half of what comes in is cut off by ReLU


def initialize(network: nn.Module, how: str) -> None:
    """Draw the weights of every convolution and fully connected layer anew; their biases become 0.

    kaiming: normal, variance 2 / fan in (He et al. 2015, equation 10).
    xavier: uniform, variance 2 / (fan in + fan out) (Glorot and Bengio 2010, equation 16).
    orthogonal: orthogonal rows or columns times sqrt(2) (Saxe et al. 2014, section 3; the factor as ReLU needs it).
    Norms, embeddings and the input projections of attention keep theirs.
    """
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if how == "kaiming":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif how == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.orthogonal_(module.weight, gain=RECTIFIED)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

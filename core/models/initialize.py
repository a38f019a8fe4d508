"""Weight initialization schemes."""

from __future__ import annotations

from torch import nn

RELU_GAIN = 2**0.5  # as nn.init.calculate_gain("relu")


def initialize(network: nn.Module, how: str) -> None:
    """Initialize the weights of all convolution and linear layers; their biases are set to 0.

    kaiming: normal, variance 2 / fan_in (He et al. 2015, equation 10).
    xavier: uniform, variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, equation 16).
    orthogonal: (semi-)orthogonal matrices times the ReLU gain sqrt(2) (Saxe et al. 2014, section 3).
    Normalization layers, embeddings, the input projections of attention, and layers that are not trained are not
    changed.
    """
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not module.weight.requires_grad:
            continue
        if how == "kaiming":
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif how == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.orthogonal_(module.weight, gain=RELU_GAIN)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""The parameters of a network by layer, for layer-wise learning rate decay."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a network by layer, from the images to the logits, in order of definition.

    Containers (Sequential, ModuleList, ModuleDict) are traversed, and so is a module that holds a list of two or more
    modules of the same class (a stage, an encoder). Each module reached in this way is one layer: a convolution, or a
    whole residual or transformer block. A module without weight matrices (a normalization layer) belongs to the layer
    before it; parameters of a traversed module itself (class token, position embeddings) belong to the layer defined at
    that point, usually the first. Example: ResNet-18 has 10 layers (stem, 8 blocks, classifier). The scheme follows the
    layer-wise learning rates of ELECTRA (Clark et al. 2020, appendix A) and BEiT (Bao et al. 2022, appendix): the
    embedding is the first layer, each block is one layer, and the classifier is the last.
    """
    found: list[list[nn.Parameter]] = [[]]
    started = False
    for parameters, has_matrix in _pieces(model):
        if has_matrix and started:
            found.append([])
        started = started or has_matrix
        found[-1] += parameters
    return found


def _pieces(module: nn.Module) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """(parameters, whether they start a new layer) of each piece of a module."""
    yield list(module.parameters(recurse=False)), False
    for child in module.children():
        if is_traversed(child):
            yield from _pieces(child)
        else:
            parameters = list(child.parameters())
            yield parameters, any(p.ndim >= 2 for p in parameters)


def is_traversed(module: nn.Module) -> bool:
    """Whether a module holds layers, or is one: see `layers`."""
    return isinstance(module, _LISTS) or any(_is_stage(child) for child in module.children())


def _is_stage(module: nn.Module) -> bool:
    kinds = [type(child) for child in module.children()]
    return isinstance(module, _LISTS) and len(kinds) > 1 and len(set(kinds)) == 1

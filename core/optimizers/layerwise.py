"""How deep in a network a parameter lies."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of a network, layer after layer from the images to the logits, in order of definition.

    Lists of modules are opened, and so is a module that holds a list of two or more modules of one class (a stage, an
    encoder); what then comes is one layer, be it a convolution or a whole residual or transformer block. What has no
    weights of two dimensions (a norm) belongs to the layer before it; parameters that stand alone (a class token,
    position embeddings) to the layer defined around them, the first as a rule. ResNet-18: stem, 8 blocks, classifier:
    10 layers. As in the layer-wise learning rates of ELECTRA (Clark et al. 2020, appendix A) and BEiT (Bao et al. 2022,
    appendix), where the embedding is the first layer, each block one more and the classifier the last.
    """
    found: list[list[nn.Parameter]] = [[]]
    begun = False
    for parameters, weighty in _pieces(model):
        if weighty and begun:
            found.append([])
        begun = begun or weighty
        found[-1] += parameters
    return found


def _pieces(module: nn.Module) -> Iterator[tuple[list[nn.Parameter], bool]]:
    """(parameters, whether a layer begins with them) of what a module holds."""
    yield list(module.parameters(recurse=False)), False
    for child in module.children():
        if _is_opened(child):
            yield from _pieces(child)
        else:
            parameters = list(child.parameters())
            yield parameters, any(p.ndim >= 2 for p in parameters)


def _is_opened(module: nn.Module) -> bool:
    return isinstance(module, _LISTS) or any(_is_stage(child) for child in module.children())


def _is_stage(module: nn.Module) -> bool:
    kinds = [type(child) for child in module.children()]
    return isinstance(module, _LISTS) and len(kinds) > 1 and len(set(kinds)) == 1

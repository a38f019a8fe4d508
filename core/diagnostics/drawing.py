"""`summary --graph`: a network as a graph of its modules and functions, with the shapes between them.

torchview records a forward pass, and the program dot lays the graph out. Of the alternatives, torch.fx needs networks
without control flow, and TensorBoard and Netron draw in a browser.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from core.common.errors import UserError
from core.common.extras import library
from core.common.files import replacing
from core.declare.part import Part

TEXTS = (".gv", ".dot")
PICTURES = (".svg", ".pdf", ".png")


class Drawing(Part):
    """A drawing of the network, by torchview and Graphviz."""

    graph: str | None = Field(
        None,
        description=f"file that the network is drawn to, {', '.join(PICTURES)}, or, as text, {', '.join(TEXTS)}; none: "
        "it is not drawn",
    )
    depth: int = Field(3, ge=1, description="levels of modules within modules that --graph draws")

    @field_validator("graph")
    @classmethod
    def _is_a_format(cls, name: str | None) -> str | None:
        if name is not None and Path(name).suffix not in (*PICTURES, *TEXTS):
            raise ValueError(f"should end in one of {', '.join((*PICTURES, *TEXTS))}")
        return name

    def draw(self, model: nn.Module, image: torch.Tensor) -> Path | None:
        """Draw what one normalized image [1, C, H, W] goes through, if a file is declared; returns its path.

        Raises UserError if torchview or dot is not installed, or if the file cannot be written.
        """
        if self.graph is None:
            return None
        graphviz = library("graphviz", "graph", "--graph")
        draw_graph = library("torchview", "graph", "--graph").draw_graph
        drawn = draw_graph(model, image, depth=self.depth, expand_nested=True, mode="eval", device=image.device)
        _name(drawn, model)
        path = Path(self.graph)
        try:
            content = _text(drawn) if path.suffix in TEXTS else drawn.visual_graph.pipe(path.suffix[1:])
            with replacing(path) as file:
                file.write(content)
        except graphviz.ExecutableNotFound:
            advice = "install Graphviz (apt-get install graphviz, brew install graphviz)"
            text = path.with_suffix(TEXTS[0])
            raise UserError([f"--graph {path}: the program dot is missing; {advice}, or use --graph {text}"]) from None
        except OSError as error:
            raise UserError([f"--graph {path}: it cannot be written: {error.strerror or error}"]) from None
        return path


def _text(drawn: Any) -> bytes:
    source: str = drawn.visual_graph.source
    return source.encode()


def _name(drawn: Any, model: nn.Module) -> None:
    """Put the names that modules have in the network before those of their classes, and draw the graph again."""
    names = {id(module): name for name, module in model.named_modules() if name}
    for node in _nodes(drawn.node_hierarchy):
        if name := names.get(getattr(node, "compute_unit_id", 0)):
            node.name = f"{name} {node.name}"
    drawn.visual_graph.body.clear()
    drawn.node_set.clear()
    drawn.edge_list.clear()
    drawn.fill_visual_graph()


def _nodes(tree: dict[Any, list[Any]]) -> Iterator[Any]:
    """Yield each node of torchview's tree: {module: nodes, and such trees}."""
    for module, inside in tree.items():
        yield module
        for node in inside:
            if isinstance(node, dict):
                yield from _nodes(node)
            else:
                yield node

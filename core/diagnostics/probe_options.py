"""Options of `labbook probe`."""

from __future__ import annotations

from pydantic import Field

from core.declare.part import Part


class Probe(Part):
    """How well fixed features of a network tell the classes apart.

    k-nearest-neighbor: votes weighted by exp(cosine similarity / temperature) (Wu et al. 2018, section 3.4). Linear
    probe (Alain and Bengio 2016): logistic regression of scikit-learn on standardized features.
    """

    neighbors: int = Field(20, ge=1, description="number of nearest training images that vote")
    temperature: float = Field(0.07, gt=0, description="temperature of the votes of neighbors")
    C: float = Field(1.0, gt=0, description="inverse of the L2 penalty of the linear probe, as in scikit-learn")
    select: int | None = Field(
        None, ge=1, description="number of features that are kept, those with the largest F statistic; none: all"
    )
    pca: int | None = Field(
        None, ge=1, description="number of principal components of the features that are probed; none: the features"
    )

"""How a similarity volume becomes one score."""

from typing import NamedTuple

from model.similarity.global_pooling import CLASS_TOKEN_AGGREGATIONS


class SimilarityConfig(NamedTuple):
    """Settings of the scores of a model.

    Attributes:
        aggregation: a key of dense.AGGREGATIONS, or one of global_pooling.GLOBAL_AGGREGATIONS.
        head_aggregation: a key of dense.HEAD_AGGREGATIONS.
        nonneg: clamp similarities at 0.
        use_cls: add the similarity of the class tokens to every cell of their head.

    Source: reference 1.2.
    """

    aggregation: str = "misa"
    head_aggregation: str = "max_elementwise"
    nonneg: bool = False
    use_cls: bool = False

    @property
    def needs_cls(self) -> bool:
        """Whether scores use class tokens."""
        return self.use_cls or self.aggregation in CLASS_TOKEN_AGGREGATIONS

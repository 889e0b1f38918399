"""What recognizing a face gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from explllm.core.expressions import Expression


@dataclass(frozen=True)
class Recognition:
    """The expression of one face."""

    expression: Expression
    """The most likely class."""
    probabilities: dict[Expression, float]
    """A probability for each class of the model, in index order; they sum to 1."""

    @classmethod
    def of(cls, labels: Sequence[Expression], probabilities: Sequence[float]) -> "Recognition":
        """Pair classes with their probabilities; the first of equal ones wins."""
        pairs = dict(zip(labels, probabilities, strict=True))
        return cls(max(pairs, key=pairs.__getitem__), pairs)

    @property
    def confidence(self) -> float:
        """The probability of `expression`."""
        return self.probabilities[self.expression]

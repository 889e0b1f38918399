"""Settings of the engine and of the baseline."""

import math
from dataclasses import dataclass

from explllm.core.errors import ConfigError
from explllm.core.expressions import LABEL_SETS, LabelSet
from explllm.faces.crop import DEFAULT_MARGIN


@dataclass(frozen=True)
class EngineSettings:
    """Limits of the Exp-CoT Engine. The paper gives only `max_words`; the other defaults are this project's own."""

    max_rounds: int = 4
    """Maximum number of reflection rounds before a face fails."""
    label_after: int = 2
    """Reflection rounds after which the true label is revealed (the paper's "predefined threshold")."""
    max_refinements: int = 3
    """Maximum number of format refinements before a description returns to reflection. For FEA texts, the maximum
    number of versions of each answer."""
    parse_attempts: int = 3
    """Maximum number of attempts to get an answer that can be parsed."""
    max_words: int = 130
    """Maximum number of words in a chain of thought (paper, Section III-B-6)."""
    strong: float = 0.3
    """Minimum intensity in [0, 1] of an action unit that descriptions and chains of thought must mention."""
    temperature: float = 0.0
    """Sampling temperature of the model."""

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ConfigError: If a field is out of range.
        """
        _check_range(self, "max_rounds", 0)
        _check_range(self, "label_after", 0)
        _check_range(self, "max_refinements", 1)
        _check_range(self, "parse_attempts", 1)
        _check_range(self, "max_words", 1)
        _check_range(self, "strong", 0, 1)
        _check_range(self, "temperature", 0, 2)


@dataclass(frozen=True)
class BaselineSettings:
    """Settings for the images and requests of the baseline."""

    labels: LabelSet = LABEL_SETS["affectnet8"]
    """The classes to choose from."""
    size: int = 512
    """Maximum width and height of the images sent, in pixels (default: one tile of OpenAI's models, guide "Images and
    vision"); smaller images keep their size."""
    margin: float = DEFAULT_MARGIN
    """Margin on each side of a face box, as a fraction of its longer side."""
    max_tokens: int = 512
    """Maximum answer length in tokens, without hidden reasoning."""
    temperature: float = 0.0
    """Sampling temperature of the model."""

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ConfigError: If a field is out of range.
        """
        _check_range(self, "size", 16, 4096)
        _check_range(self, "margin", -0.4, 3)
        _check_range(self, "max_tokens", 1)
        _check_range(self, "temperature", 0, 2)


def _check_range(settings: object, name: str, minimum: float, maximum: float = math.inf) -> None:
    value = getattr(settings, name)
    # Written so that NaN fails.
    if not minimum <= value <= maximum:
        allowed = f"at least {minimum:g}" if maximum == math.inf else f"a number from {minimum:g} to {maximum:g}"
        raise ConfigError(f"{name} is {value}", remedy=f"Use {allowed}.")

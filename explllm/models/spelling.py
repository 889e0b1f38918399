"""Names of weights across releases of transformers."""

from collections.abc import Container, Mapping

import torch

# Since 5.18 and before, for DINOv2's attention.
_SPELLINGS = (
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
)


def remap_keys(weights: Mapping[str, torch.Tensor], names: Container[str]) -> dict[str, torch.Tensor]:
    """Give weights the names that the installed release of transformers has for them.

    Args:
        weights: Weights by name, as any release spells them.
        names: All names in the model.

    Returns:
        The weights; those that no spelling brings into the model keep their name.
    """
    found: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        spellings = [name]
        if name not in names:
            for newer, older in _SPELLINGS:
                spellings += [name.replace(newer, older), name.replace(older, newer)]
        found[next((spelling for spelling in spellings if spelling in names), name)] = value
    return found

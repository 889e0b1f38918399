"""Action unit estimators: from a face image to 24 intensities in FEAFA's order.

To add an estimator, put one file in this folder. Every module here is imported, and `register_estimator` makes the
class an option of ``explllm aus``, ``explllm explain`` and other commands::

    from explllm.faces.estimators.registry import Estimator, Intensities, register_estimator

    @register_estimator("brightness")
    class Brightness(Estimator):
        file_help = "A text file with the index of the unit to estimate from the brightness."
        name = "brightness"

        def __init__(self, path, *, gain: float = 1.0) -> None:
            self.unit, self.gain = int(open(path).read()), gain

        def estimate(self, images):
            ...

``explllm aus faces.parquet -o aus.parquet --brightness unit.txt --gain 2`` then uses it. Import heavy libraries in
the constructor, because the modules are imported even if a command only prints its help.
"""

from importlib import import_module
from pkgutil import iter_modules

from explllm.faces.estimators.registry import (
    ESTIMATORS,
    Estimator,
    EstimatorSpec,
    Intensities,
    estimator_options,
    fill_unmeasured,
    open_estimator,
    register_estimator,
    selected_estimator,
    unmeasured_units,
)

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "EstimatorSpec",
    "Intensities",
    "estimator_options",
    "fill_unmeasured",
    "open_estimator",
    "register_estimator",
    "selected_estimator",
    "unmeasured_units",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

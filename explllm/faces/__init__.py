"""From photographs to faces: image reading, face detection, square crops, and action unit estimation.

`images` reads images of any mode, and `pixels` prepares model input. `detector` finds faces, `boxes` selects among them
and `crop` cuts them out. `estimators` is the registry of action unit estimators. `detection` and `estimation` apply
detectors and estimators to the rows of a manifest, as resumable `jobs`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

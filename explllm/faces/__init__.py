"""From photographs to faces: image reading, face detection, square crops, and action unit estimation.

`pixels` reads images of any mode and prepares model input. `detector` finds faces, `boxes` selects among them and
`crop` cuts them out. `estimators` is the registry of action unit estimators. `detection` and `estimation` process the
rows of a manifest with them, as resumable `jobs`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

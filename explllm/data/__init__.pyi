from .au_faces import DrawnActionUnits as DrawnActionUnits
from .au_faces import ManifestActionUnits as ManifestActionUnits
from .datamodules import (
    CaptionedImages as CaptionedImages,
)
from .datamodules import (
    DrawnFaces as DrawnFaces,
)
from .datamodules import (
    FolderFaces as FolderFaces,
)
from .datamodules import (
    ManifestFaces as ManifestFaces,
)
from .folder import read_folder as read_folder
from .readers.registry import read_data_set as read_data_set
from .transforms import Augment as Augment
from .transforms import ReleasedAugment as ReleasedAugment

from .boxes import Box as Box
from .boxes import Detection as Detection
from .boxes import iou as iou
from .crop import DEFAULT_MARGIN as DEFAULT_MARGIN
from .crop import face_crop as face_crop
from .crop import load_face as load_face
from .detector import FaceDetector as FaceDetector
from .estimators import (
    ESTIMATORS as ESTIMATORS,
)
from .estimators import (
    Estimator as Estimator,
)
from .estimators import (
    open_estimator as open_estimator,
)
from .estimators import (
    register_estimator as register_estimator,
)
from .pixels import (
    IMAGE_PRESETS as IMAGE_PRESETS,
)
from .pixels import (
    ImagePreset as ImagePreset,
)
from .pixels import (
    ImageSource as ImageSource,
)
from .pixels import (
    load_image as load_image,
)

from .action_units import FEAFA as FEAFA
from .action_units import ActionUnit as ActionUnit
from .errors import InputError as InputError
from .expressions import LABEL_SETS as LABEL_SETS
from .expressions import Expression as Expression
from .expressions import LabelSet as LabelSet
from .manifest import Manifest as Manifest

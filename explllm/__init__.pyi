from .core.errors import InputError as InputError
from .core.expressions import Expression as Expression
from .core.expressions import LabelSet as LabelSet
from .core.manifest import Manifest as Manifest
from .explanations.chain_of_thought import ChainOfThought as ChainOfThought
from .explanations.rule_writer import RuleWriter as RuleWriter
from .faces.action_units import ActionUnits as ActionUnits
from .faces.detector import FaceDetector as FaceDetector
from .models.configuration import ExpLLMConfig as ExpLLMConfig
from .models.explllm import FEALLM as FEALLM
from .models.explllm import ExpLLM as ExpLLM
from .models.generation import Recognition as Recognition

__version__: str

from .answers import Answers as Answers
from .au_regression import ActionUnitAgreement as ActionUnitAgreement
from .chain_of_thought import (
    ChainOfThoughtMetrics as ChainOfThoughtMetrics,
)
from .chain_of_thought import (
    chain_of_thought_metrics as chain_of_thought_metrics,
)
from .comparison import compare_runs as compare_runs
from .comparison import read_runs as read_runs
from .evaluation import explanation_metrics as explanation_metrics
from .evaluation import recognition_metrics as recognition_metrics
from .exp_cot_score import ExpCoTScore as ExpCoTScore
from .exp_cot_score import Judgment as Judgment
from .facs import FacsF1 as FacsF1
from .recognition import RecognitionMetrics as RecognitionMetrics

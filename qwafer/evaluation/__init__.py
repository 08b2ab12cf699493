"""What results are worth: metrics, thresholds, calibration, intervals and figures. NumPy in, frozen dataclasses out."""

from qwafer.evaluation.evaluate import Evaluation as Evaluation
from qwafer.evaluation.evaluate import evaluate as evaluate
from qwafer.evaluation.metrics import average_precision as average_precision
from qwafer.evaluation.metrics import balanced_accuracy as balanced_accuracy
from qwafer.evaluation.metrics import bce_loss as bce_loss
from qwafer.evaluation.metrics import brier as brier
from qwafer.evaluation.metrics import confusion as confusion
from qwafer.evaluation.metrics import exact_match_ratio as exact_match_ratio
from qwafer.evaluation.metrics import expected_calibration_error as expected_calibration_error
from qwafer.evaluation.metrics import f1 as f1
from qwafer.evaluation.metrics import precision as precision
from qwafer.evaluation.metrics import predict as predict
from qwafer.evaluation.metrics import recall as recall
from qwafer.evaluation.metrics import roc_auc as roc_auc
from qwafer.evaluation.metrics import separation as separation

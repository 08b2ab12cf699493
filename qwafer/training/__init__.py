"""One run from features to a result: the loop, the optimiser, checkpoints, `RunResult`."""

from qwafer.training._checkpoint import Checkpoints as Checkpoints
from qwafer.training._optimizer import make_optimizer as make_optimizer
from qwafer.training._optimizer import make_schedule as make_schedule
from qwafer.training._prepare import Prepared as Prepared
from qwafer.training._prepare import prepare as prepare
from qwafer.training._train import train as train
from qwafer.training.make import make_head as make_head
from qwafer.training.make import make_program as make_program
from qwafer.training.predictor import Predictor as Predictor
from qwafer.training.result import RunResult as RunResult

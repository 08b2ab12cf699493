"""One run from features to a result: the loop, the optimiser, checkpoints, `RunResult`."""

from typing import TYPE_CHECKING

from qwafer._lazy import lazy_attributes

if TYPE_CHECKING:
    from qwafer._checkpoints import Checkpoints as Checkpoints
    from qwafer.training._convergence import has_converged as has_converged
    from qwafer.training._environment import Environment as Environment
    from qwafer.training._environment import Host as Host
    from qwafer.training._optimizer import make_schedule as make_schedule
    from qwafer.training._prepare import Prepared as Prepared
    from qwafer.training._prepare import prepare as prepare
    from qwafer.training._together import lanes_gain as lanes_gain
    from qwafer.training._together import train_lanes as train_lanes
    from qwafer.training._train import train as train
    from qwafer.training._train import train_prepared as train_prepared
    from qwafer.training._trial import run_trial as run_trial
    from qwafer.training._trial_scores import Stop as Stop
    from qwafer.training._trial_scores import TrialScores as TrialScores
    from qwafer.training.make import make_head as make_head
    from qwafer.training.make import make_program as make_program
    from qwafer.training.predictor import Predictor as Predictor
    from qwafer.training.result import Digests as Digests
    from qwafer.training.result import InitialScores as InitialScores
    from qwafer.training.result import ParameterCount as ParameterCount
    from qwafer.training.result import RunResult as RunResult
    from qwafer.training.result import Runs as Runs
    from qwafer.training.result import Timings as Timings

__getattr__, __dir__ = lazy_attributes(globals())

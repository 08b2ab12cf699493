"""What a step is expected to take, so that nobody waits for a slow engine by oversight."""

from qwafer.circuits import Circuit, CircuitSpec
from qwafer.engines.base import Engine
from qwafer.engines.catalyst.engine import CatalystEngine
from qwafer.engines.xla import cost
from qwafer.engines.xla.engine import XlaEngine


def expected_steps(engine: Engine, circuit: Circuit, batch: int) -> dict[str, float]:
    """Return about how many seconds value and gradient of a batch take, for `engine` and for `xla`, by their names.

    By models that were fitted to measurements on two cores of a Xeon at 2.6 GHz. Empty where `engine` is another one
    than `catalyst` with exact values by adjoint sweeps one example at a time, or where `xla` cannot run the circuit.
    """
    from qwafer.engines.catalyst.choice import expected_us

    measured = isinstance(engine, CatalystEngine) and engine.can_batch and engine.batching == "scan"
    if not measured or not isinstance(circuit, CircuitSpec) or XlaEngine().why_not(circuit) is not None:
        return {}
    choice = cost.choose(circuit, batch, gradient=True)
    microseconds = {engine.name: expected_us(circuit, batch), "xla": choice.expected_us[choice.plan]}
    return {name: value / 1e6 for name, value in microseconds.items()}

"""What all engines have in common: options as fields, names in a registry, refusals in one sentence."""

import dataclasses

import pytest

from qwafer import CapabilityError, InputError, engines
from qwafer.circuits import CircuitSpec


@pytest.mark.parametrize("name", engines.ENGINES.names)
def test_engines_are_frozen_dataclasses_of_their_options(name):
    engine = engines.get(name)
    assert engine.name == name
    assert engine == type(engine)()
    assert hash(engine) == hash(engines.get(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        engine.device = "x"
    assert engines.ENGINES.name_of(type(engine)) == name
    assert engine.why_not(CircuitSpec(2, 1)) is None


def test_engines_refuse_what_they_do_not_have():
    assert dataclasses.asdict(engines.get("catalyst", shots=10))["shots"] == 10
    for name, options in (("reference", {"shots": 1}), ("xla", {"batching": "scan"}), ("catalyst", {"seed": 1})):
        with pytest.raises(InputError, match="does not have all of the options"):
            engines.get(name, **options)
    with pytest.raises(InputError, match="did you mean `xla`"):
        engines.get("xlaa")
    with pytest.raises(CapabilityError, match="parameter-shift"):
        engines.get("catalyst", shots=10, diff_method="adjoint")


def test_engines_say_why_they_cannot_run_a_circuit():
    assert "encodes its data again" in engines.get("catalyst", batching="choi").why_not(
        CircuitSpec(2, 2, reupload=True)
    )
    assert "without entangling gates" in engines.get("xla", plan="product").why_not(CircuitSpec(2, 1))


def test_an_engine_of_ones_own_is_found_by_module_and_name():
    assert engines.get("qwafer.engines.reference:ReferenceEngine") == engines.get("reference")

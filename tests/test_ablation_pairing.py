"""Digests that must agree, digests that may differ, and results that are suspiciously equal."""

import numpy as np
import pytest

from qwafer._errors import InputError, PairingError
from qwafer.comparison.pairing import INPUTS, check_pairing, identical_arms
from qwafer.config import RunConfig
from qwafer.features import SourceFacts
from qwafer.overrides import determined_by, known_options, with_options
from qwafer.training import Digests
from tests.factories import feature_set


def digests(**changed):
    parameters = {"circuit.ansatz[2, 4, 3]": "a", "readout.bias[1]": "b"} | changed.pop("parameters", {})
    return Digests(**{"data": "d", "split": "s", "batches": "o", **changed, "parameters": parameters})


def configs(**options):
    """The arms a (as it is) and b (with options)."""
    return {"a": RunConfig(), "b": with_options(RunConfig(), {k.replace("__", "."): v for k, v in options.items()})}


SYNTHETIC, FEATURES = (dict.fromkeys("ab", SourceFacts(kind)) for kind in ("synthetic", "features"))


def check(first, second, arms, facts=SYNTHETIC):
    return check_pairing({"a": {3: first, 5: first}, "b": {3: second, 5: second}}, arms, facts, "runs/x")


def test_equal_digests_pair():
    readout = {"parameters": {"readout.angles[1, 4, 3]": "r"}}
    pairing = check(digests(), digests(**readout), configs(circuit__readout="z_vec"))
    assert pairing.n_seeds == 2
    assert pairing.equal == ("data", "split", "batches")
    assert pairing.differences == ()
    assert pairing.shared_parameters == ("circuit.ansatz[2, 4, 3]", "readout.bias[1]")


@pytest.mark.parametrize("what", ["data", "split", "batches"])
def test_a_digest_that_differs_without_reason_is_refused(what):
    with pytest.raises(PairingError) as error:
        check(digests(), digests(**{what: "x"}), configs(circuit__readout="z_vec"))
    assert isinstance(error.value, InputError)
    for text in ("a and b", "seed 3", f"`{what}` digest", "runs/x"):
        assert text in str(error.value)


def test_an_initial_value_that_differs_without_reason_is_refused():
    other = digests(parameters={"circuit.ansatz[2, 4, 3]": "x"})
    with pytest.raises(PairingError, match=r"initial value of `circuit.ansatz\[2, 4, 3\]`"):
        check(digests(), other, configs(circuit__readout="z_vec"))
    with pytest.raises(PairingError, match="initial value"):
        check(
            digests(parameters={"new.name[2]": "a"}),
            digests(parameters={"new.name[2]": "b"}),
            configs(head__projection="pca"),
        )


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("data", {"data__backbone": "other"}),
        ("data", {"data__task": "any"}),
        ("split", {"data__split_by": "group"}),
        ("split", {"data__train_fraction": 0.5}),
        ("split", {"data__n_maps": 500}),
        ("batches", {"training__batch_size": 32}),
        ("batches", {"training__fixed_num_batches": 5}),
        ("batches", {"data__task": "any", "sampling__balanced": True}),
    ],
)
def test_a_digest_may_differ_where_its_options_do(what, options):
    pairing = check(digests(), digests(**{what: "x"}), configs(**options))
    assert what not in pairing.equal
    (difference,) = pairing.differences
    assert difference.arms == ("a", "b")
    assert difference.what == what
    # An option that only one arm has (pos_frac, of balanced batches) is one in which they differ.
    assert set(difference.options) & {name.replace("__", ".") for name in options}


def test_options_that_explain_one_digest_do_not_explain_another():
    for what, options in (("split", {"training__batch_size": 32}), ("split", {"data__task": "any"}),
                          ("data", {"data__split_by": "group"}), ("batches", {"data__task": "any"}),
                          ("data", {"sampling__balanced": False, "training__epochs": 3})):  # fmt: skip
        with pytest.raises(PairingError):
            check(digests(), digests(**{what: "x"}), configs(**options))


def test_options_without_effect_on_the_source_explain_nothing():
    """A file of features is the same whatever the backbone that would make them is called."""
    for what, options in (("data", {"data__backbone": "other"}), ("split", {"data__n_maps": 500})):
        assert check(digests(), digests(**{what: "x"}), configs(**options)).differences[0].what == what
        with pytest.raises(PairingError, match=f"`{what}` digest"):
            check(digests(), digests(**{what: "x"}), configs(**options), FEATURES)


def test_initial_values_may_differ_with_the_options_that_make_them():
    other = digests(parameters={"circuit.ansatz[2, 4, 3]": "x"})
    pairing = check(digests(), other, configs(head__init_scale=0.5))
    assert pairing.shared_parameters == ("readout.bias[1]",)
    assert pairing.differences[0].what == "initial circuit.ansatz[2, 4, 3]"
    assert pairing.differences[0].options == ("head.init_scale",)


def test_a_seed_that_one_arm_lacks_proves_nothing():
    arms = configs(circuit__readout="z_vec")
    pairing = check_pairing({"a": {0: digests()}, "b": {1: digests(split="x")}}, arms, SYNTHETIC)
    assert pairing.n_seeds == 0
    assert pairing.equal == ()


def test_rules_name_options_that_exist():
    initial = ("circuit.ansatz", "projection.weight", "projection.linear.bias", "projection.hidden.weight")
    for what in (
        *INPUTS,
        *(f"initial {name}" for name in (*initial, "projection.output.bias", "readout.bias", "alpha")),
    ):
        assert determined_by(what, RunConfig())
        assert set(determined_by(what, RunConfig())) <= known_options().keys()
    assert determined_by("initial new.name", RunConfig()) == ()


def test_what_is_not_trained_in_batches_shares_data_and_split():
    """A contender that fits itself has no order of batches and no initial values."""
    arms = configs(head__projection="pca")
    pairing = check_pairing({"a": {0: digests()}, "b": {0: Digests("d", "s")}}, arms, SYNTHETIC)
    assert pairing.equal == ("data", "split")
    assert pairing.shared_parameters == ()
    with pytest.raises(PairingError, match="`split` digest"):
        check(digests(), Digests("d", "x"), arms)


class Run:
    def __init__(self, measured):
        self.fingerprint = lambda: measured


def test_identical_arms():
    prints = {"a": {0: "x", 1: "y"}, "b": {0: "x", 1: "y"}, "c": {0: "x", 1: "z"}, "d": {1: "y", 2: "w"}, "e": {}}
    runs = {arm: {seed: Run(measured) for seed, measured in by_seed.items()} for arm, by_seed in prints.items()}
    assert identical_arms(runs) == (("a", "b"), ("a", "d"), ("b", "d"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"data.task": "any", "sampling.balanced": True}),
        ({"circuit.readout": "mean_z"}, {"circuit.readout": "z_vec", "head.projection": "fixed"}),
        ({}, {"data.split_by": "group", "training.epochs": 2}),
        ({}, {"training.batch_size": 16, "head.init_scale": 0.3, "head.alpha_init": 2.0}),
        ({"head.name": "linear"}, {"head.name": "mlp", "head.hidden": 8}),
        ({}, {"circuit.n_qubits": 2, "circuit.dtype": "float64"}),
        ({}, {"data.limit": 60, "training.fixed_num_batches": 3}),
        ({}, {"head.alpha_mode": "direct", "head.alpha_per_label": False, "training.ema_decay": 0.9}),
    ],
)
def test_rules_hold_for_the_digests_that_training_makes(first, second):
    """The digests of real heads, splits and samplers never differ without an option that the rules know."""
    from qwafer._io import digest
    from qwafer.objective import make_sampler, order_digest
    from qwafer.training import make_head, prepare

    data = feature_set(120, 5, groups=np.array([str(i // 3) for i in range(120)]))

    def made(config, seed):
        prepared = prepare(config, data, seed)
        features, labels = prepared.part("train")
        training = config.training
        sampler = make_sampler(
            config.sampling,
            labels,
            batch_size=training.batch_size,
            seed=seed,
            fixed_num_batches=training.fixed_num_batches,
        )
        head = make_head(config, features, labels.shape[1], seed)
        return Digests(
            data=prepared.data_digest,
            split=prepared.split.digest,
            batches=order_digest(sampler, training.epochs, prepared.ids("train")),
            parameters={f"{k}{list(v.shape)}": digest(np.asarray(v)) for k, v in head.parameters().items()},
        )

    arms = {name: with_options(RunConfig(), options) for name, options in (("a", first), ("b", second))}
    found = {arm: {seed: made(config, seed) for seed in (0, 1)} for arm, config in arms.items()}
    pairing = check_pairing(found, arms, FEATURES)
    assert pairing.n_seeds == 2

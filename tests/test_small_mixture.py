"""The mixture of quantised experts: its dispatch, its balance, its gradients, its file."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwafer import InputError, size_of
from qwafer.config import RunConfig
from qwafer.heads import MixtureOptions, head_inputs
from qwafer.heads._few_bits import layer_weights
from qwafer.heads._mixture import ROUTER, balance_loss, dispatch
from qwafer.heads._quantised import forward
from qwafer.heads.few_bits import PRECISIONS
from qwafer.training import Predictor, train
from tests.factories import feature_set, training_options

D, K = 9, 3
DATA = feature_set(150, D, K)


def made(**options):
    return MixtureOptions(**{"experts": ("bitnet", "4", "qesc"), **options}).make(head_inputs(DATA.features, K, 3))


def dense(head, x, *, train=False):
    """The same sum over all experts, those that are not chosen with weight 0."""
    standardized = head.standardized(x)
    p = np.asarray(head.routing(x))
    least = np.sort(p, axis=1)[:, -head.top_k]
    outputs = [
        np.asarray(forward(head, standardized, layers, [layer_weights(head, layer, train=train) for layer in layers]))
        for layers in head.experts()
    ]
    return sum(np.where(p[:, e] >= least, p[:, e], 0)[:, None] * out for e, out in enumerate(outputs))


@pytest.mark.parametrize(("experts", "top_k", "rows"), [(("1", "4", "qesc"), 3, 5), (PRECISIONS, 2, 70)])
def test_dispatch_is_the_dense_sum(experts, top_k, rows):
    head = made(experts=experts, top_k=top_k)
    x = DATA.features[:rows]
    np.testing.assert_allclose(head.logits(x, None), dense(head, x), rtol=1e-4, atol=1e-5)


def test_only_what_was_routed_is_computed():
    """Blocks that are really run, counted on the host, for random routings and for extreme ones."""
    n_rows, n_experts, block = 50, 4, 8
    calls = collections.Counter()

    def expert(e):
        def call(rows):
            jax.debug.callback(lambda: calls.update([e]))
            return rows * (e + 1)

        return call

    @jax.jit
    def run(x, chosen):
        return dispatch(x, chosen, [expert(e) for e in range(n_experts)], 2, block)

    rng = np.random.default_rng(0)
    x = rng.integers(-99, 99, size=(n_rows, 2)).astype(np.float32)
    orders = rng.permuted(np.tile(np.arange(n_experts), (n_rows, 1)), axis=1)
    extremes = [np.tile([3, 0], (n_rows, 1)), np.where(np.arange(n_rows)[:, None] < 49, [[0, 1]], [[2, 3]])]
    for chosen in (orders[:, :2], *extremes):
        calls.clear()
        found = np.asarray(run(x, jnp.asarray(chosen)))
        jax.effects_barrier()
        np.testing.assert_array_equal(found, x[:, None, :] * (chosen + 1)[:, :, None])
        counts = np.bincount(chosen.ravel(), minlength=n_experts)
        assert {e: calls[e] for e in range(n_experts)} == dict(enumerate(-(-counts // block)))
    assert run._cache_size() == 1, "one program serves every routing"


def test_the_balance_loss_is_least_where_the_load_is_equal():
    n_experts = 4
    even = jnp.full((8, n_experts), 1 / n_experts)
    assert balance_loss(even, jnp.arange(8)[:, None] % n_experts) == pytest.approx(1)
    one = jnp.eye(n_experts)[jnp.zeros(8, int)]
    assert balance_loss(one, jnp.zeros((8, 1), int)) == pytest.approx(n_experts)
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = jax.nn.softmax(jnp.asarray(rng.normal(size=(64, n_experts)) + rng.normal(size=(1, n_experts)), "float32"))
        chosen = jax.lax.top_k(p, 1)[1]
        f = np.bincount(np.asarray(chosen).ravel(), minlength=n_experts) / 64
        expected = n_experts * (f * np.asarray(p).mean(axis=0)).sum()
        assert balance_loss(p, chosen) == pytest.approx(expected, rel=1e-5)
        assert balance_loss(p, chosen) > 1


def test_the_penalty_moves_the_router_alone_and_towards_balance():
    head, key = made(top_k=1, balance=1.0, experts=("8", "4", "2")), jax.random.key(0)

    @jax.jit
    def penalty(params, weights):
        own = head.with_parameters(params)
        return own.training_outputs(DATA.features, None, weights=weights, key=key)[1]

    ones = jnp.ones(len(DATA.features))
    skewed = {**head.params, f"{ROUTER}.bias": jnp.asarray([3.0, 0.0, 0.0])}
    value, slope = jax.value_and_grad(penalty)(skewed, ones)
    assert value > 1.5
    assert {name for name, each in slope.items() if np.abs(np.asarray(each)).max() > 0} == {
        f"{ROUTER}.weight",
        f"{ROUTER}.bias",
    }
    assert np.asarray(slope[f"{ROUTER}.bias"])[0] > 0
    assert (np.asarray(slope[f"{ROUTER}.bias"])[1:] < 0).all()
    p = np.asarray(head.routing(DATA.features))[:40]
    expected = balance_loss(jnp.asarray(p), jnp.asarray(p.argmax(axis=1)[:, None]))
    assert penalty(head.params, ones.at[40:].set(0)) == pytest.approx(float(expected), rel=1e-5), "weight 0 pads"


@pytest.mark.slow
def test_gradients_are_those_of_the_dense_sum():
    head = made(experts=("8", "bitnet"), top_k=1, hidden=4)
    x, key = jnp.asarray(DATA.features[:30]), jax.random.key(0)
    chosen = np.asarray(jax.lax.top_k(head.routing(x), 1)[1])
    mask = jnp.asarray((chosen[:, :, None] == np.arange(2)).any(axis=1), "float32")

    def all_of_them(params):
        own = head.with_parameters(params)
        outputs = [
            forward(own, own.standardized(x), layers, [layer_weights(own, layer, train=True) for layer in layers])
            for layers in own.experts()
        ]
        return (((mask * own.routing(x))[:, :, None] * jnp.stack(outputs, axis=1)).sum(axis=1) ** 2).sum()

    found = jax.grad(
        lambda p: (head.with_parameters(p).training_outputs(x, None, weights=jnp.ones(30), key=key)[0] ** 2).sum()
    )(head.params)
    for name, value in jax.grad(all_of_them)(head.params).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_run_and_its_packed_file(tmp_path):
    options = MixtureOptions(experts=("bitnet", "4", "qesc"), hidden=4)
    config = RunConfig(head=options, training=training_options(epochs=2, batch_size=32))
    result = train(config, DATA, 0)
    head, size = result.predictor.head, size_of(result.predictor)
    ternary = 8 * -(-D * 4 // 5) + 8 * -(-4 * K // 5)
    weights = ternary + (4 + 2) * (D * 4 + 4 * K)
    scales, biases = 2 + 2 * (4 + K), 3 * (4 + K)
    assert result.n_parameters.bits == weights + 32 * (scales + biases + (D + 1) * 3 + 2 * D)
    load = np.asarray(head.load(DATA.features))
    assert load.sum() == pytest.approx(1)
    result.predictor.save(tmp_path / "h", packed=True)
    assert (tmp_path / "h").stat().st_size == size.file_bytes
    loaded = Predictor.load(tmp_path / "h")
    np.testing.assert_array_equal(loaded.logits(DATA), result.predictor.logits(DATA))
    assert size_of(loaded) == size
    np.testing.assert_allclose(
        loaded.head.logits(DATA.features, None), dense(head, DATA.features), rtol=1e-4, atol=1e-5
    )


def test_dropout_is_of_the_router_in_training_alone():
    head = made(router_dropout=0.5, experts=("8", "4", "2"))
    calm = head.logits(DATA.features, None)
    np.testing.assert_array_equal(calm, head.logits(DATA.features, None, key=jax.random.key(0)))
    draws = [np.asarray(head.logits(DATA.features, None, key=jax.random.key(i), train=True)) for i in range(2)]
    assert not np.allclose(*draws)
    with pytest.raises(InputError, match="`key` is needed"):
        head.logits(DATA.features, None, train=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"experts": ()}, "must be a tuple of 1 to 256 precisions"),
        ({"experts": ("4", "3")}, "`head.experts` must be one of"),
        ({"experts": ("4",)}, "`head.top_k` must be at most the 1 experts, got 2"),
        ({"balance": -1.0}, "`head.balance` must lie in"),
        ({"router_dropout": 1.0}, "`head.router_dropout` must lie in"),
        ({"top_k": 0}, "`head.top_k` must be at least 1"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(InputError, match=says):
        MixtureOptions(**options)


def test_options_on_the_command_line_and_without_effect():
    from qwafer.features import SourceFacts
    from qwafer.overrides import no_effect, with_options

    config = with_options(RunConfig(), {"head.name": "mixture", "head.experts": [4, "qesc"]})
    assert config.head.experts == ("4", "qesc")
    assert "every expert computes every example" in no_effect(config, "head.balance", SourceFacts("maps"))
    assert MixtureOptions().experts == PRECISIONS
    assert no_effect(RunConfig(head=MixtureOptions()), "head.balance", SourceFacts("maps")) is None

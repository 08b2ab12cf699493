"""The recursive network is its formula, its gradient stops where it should, and halting saves steps, not answers."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from qwafer import InputError
from qwafer.backbones.checkpoints import write_tensors
from qwafer.backbones.trained import id_tensors
from qwafer.data import WaferMaps, make_split, synthetic_maps
from qwafer.networks import halting
from qwafer.networks.frozen import network_extractor
from qwafer.networks.halting import Halted, HaltingReport, halted_logits, halting_report
from qwafer.networks.trm import Trm, _core
from qwafer.networks.trm_module import EPS, Attention, RMSNorm, SwiGLU, TokenSwiGLU, grid, pooled, rotary
from qwafer.reports.figures import text_problems
from qwafer.reports.figures.halting import halting_steps, halting_trade_off

TINY = Trm(size=8, patch=2, width=8, layers=1, recursions=2, no_gradient=0)
ATTENTIVE = dataclasses.replace(TINY, mixer="attention", heads=2)
MAPS = synthetic_maps(40, seed=3)
CODES = TINY.codes(MAPS.maps)
N_LABELS = 3


def parameters(network: Trm = TINY, *, spread: float = 0.0) -> dict[str, Any]:
    """Initial weights; with `spread` the halting logit of each map and step is another, about 0."""
    params, _ = network.initial(1, N_LABELS)
    if spread:
        kernel = np.random.default_rng(0).standard_normal((network.width, 1)) * spread
        params["halt"] = {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(1, jnp.float32)}
    return params


@partial(jax.jit, static_argnames=("network", "frozen"))
def unrolled(network: Trm, params: Any, codes: Any, *, frozen: bool = True) -> list[tuple[jax.Array, jax.Array]]:
    """The recursion as the paper writes it, in loops of Python; constants to the gradient where `frozen`."""
    core = _core(network)
    start = network.begin(params, codes)
    y, z = jnp.zeros_like(start.x), jnp.zeros_like(start.x)
    read = []
    for _ in range(network.supervision_steps):
        if frozen:
            y, z = lax.stop_gradient(y), lax.stop_gradient(z)
        for i in range(network.recursions):
            constant = frozen and i < network.n_constant
            weights, x = lax.stop_gradient((params["core"], start.x)) if constant else (params["core"], start.x)
            z = core.apply({"params": weights}, x + y + z)
        y = core.apply({"params": params["core"]}, y + z)
        features = pooled(start._replace(y=y))
        logits, halt = (features @ params[k]["kernel"] + params[k]["bias"][None] for k in ("head", "halt"))
        read.append((logits, halt[:, 0]))
    return read


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = float(np.abs(other).max()) + 1e-6
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def test_rotary_keeps_norms_and_tells_relative_places() -> None:
    """The product of a query at p and a key at q is that of p + s and q + s, and another for another distance."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 2, 12)), jnp.float32) for _ in range(2))

    def score(p: tuple[int, int], other: tuple[int, int]) -> np.ndarray:
        turned = rotary(q, np.array([p])), rotary(k, np.array([other]))
        np.testing.assert_allclose((turned[0] ** 2).sum(-1), (q**2).sum(-1), rtol=1e-5)
        return np.asarray((turned[0] * turned[1]).sum(-1))

    here = score((2, 5), (7, 1))
    for shift in ((0, 3), (4, 0), (9, 18)):
        moved = score((2 + shift[0], 5 + shift[1]), (7 + shift[0], 1 + shift[1]))
        np.testing.assert_allclose(moved, here, atol=1e-4)
    for other in ((7, 2), (8, 1), (1, 7)):  # another column, another row, rows and columns exchanged
        assert np.abs(score((2, 5), other) - here).min() > 1e-3


def test_attention_knows_where_tokens_are_relative_to_each_other_alone() -> None:
    """Against the plain formula, score by score; and tokens that are permuted without their places give another."""
    module = Attention(heads=2, side=3)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((9, 2, 8)), jnp.float32)
    weights = {
        "inward": jnp.asarray(rng.standard_normal((8, 24)), jnp.float32),
        "outward": jnp.asarray(rng.standard_normal((8, 8)), jnp.float32),
    }
    found = np.asarray(module.apply({"params": weights}, x))
    places = grid(3)
    wanted = np.zeros((9, 2, 8))
    parts = np.asarray(x @ weights["inward"]).reshape(9, 2, 3, 2, 4)
    for b in range(2):
        for h in range(2):
            queries, keys = (np.asarray(rotary(jnp.asarray(parts[:, b : b + 1, i, h : h + 1]), places)) for i in (0, 1))
            scores = queries[:, 0, 0] @ keys[:, 0, 0].T / 2.0
            share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            wanted[:, b, 4 * h : 4 * h + 4] = share @ parts[:, b, 2, h]
    close(found, wanted @ np.asarray(weights["outward"]))
    order = rng.permutation(9)
    assert np.abs(np.asarray(module.apply({"params": weights}, x[order])) - found[order]).max() > 1e-2


def test_parts_are_their_formulas() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((5, 2, 4)).astype(np.float32)

    def swiglu(rows: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        gate, value = np.split(rows @ up, 2, axis=-1)
        return (gate / (1 + np.exp(-gate)) * value) @ down

    scale = rng.standard_normal(4).astype(np.float32)
    normed = RMSNorm().apply({"params": {"scale": jnp.asarray(scale)}}, jnp.asarray(x))
    close(normed, x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale)
    for module, n, over in ((SwiGLU(3), 4, x), (TokenSwiGLU(3), 5, x.transpose(1, 2, 0))):
        up, down = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, 6), (3, n)))
        found = np.asarray(module.apply({"params": {"up": jnp.asarray(up), "down": jnp.asarray(down)}}, jnp.asarray(x)))
        close(found if n == 4 else found.transpose(1, 2, 0), swiglu(over, up, down))


def test_the_first_state_is_the_embedded_map_and_nothing_else() -> None:
    """x is the sum of a vector per die by its place and code; y and z are 0; shares count the wafer's dies."""
    params = parameters()
    state = TINY.begin(params, CODES[:3])
    assert not state.y.any()
    assert not state.z.any()
    kernel = np.asarray(params["embedding"]).reshape(4, 3, 8)
    wanted = np.zeros((16, 3, 8))
    inside = np.zeros((16, 3))
    for token, batch, die in np.ndindex(16, 3, 4):
        row, column = 2 * (token // 4) + die // 2, 2 * (token % 4) + die % 2
        code = CODES[batch, row, column]
        wanted[token, batch] += kernel[die, code]
        inside[token, batch] += code > 0
    close(state.x, wanted)
    close(state.share, inside / inside.sum(axis=0))


@pytest.mark.parametrize(
    "network", [dataclasses.replace(TINY, layers=2), ATTENTIVE], ids=["two layers of mlp", "attention"]
)
def test_the_scan_is_the_unrolled_loop(network: Trm) -> None:
    params = parameters(network, spread=1.0)
    found, statistics = jax.jit(lambda p: network.outputs(p, {}, CODES[:4], train=True))(params)
    wanted = unrolled(network, params, CODES[:4])
    assert statistics == {}
    assert {array.dtype for array in found} == {jnp.dtype("float32")}
    assert found.logits.shape == (3, 4, N_LABELS)
    close(found.logits, jnp.stack([logits for logits, _ in wanted]))
    close(found.halt, jnp.stack([halt for _, halt in wanted]))
    assert np.abs(np.diff(np.asarray(found.logits), axis=0)).max() > 1e-3  # another answer at each step
    close(found.logits[-1], found.features @ params["head"]["kernel"] + params["head"]["bias"][None])


@pytest.mark.parametrize("no_gradient", [0, 1])
def test_gradients_stop_where_they_should_and_nowhere_else(no_gradient: int) -> None:
    """Against autodiff of the unrolled loop, and not against the one through everything."""
    network = dataclasses.replace(TINY, supervision_steps=2, no_gradient=no_gradient)
    params = parameters(network, spread=1.0)
    codes = CODES[:4]

    def loss(read: Any) -> Any:
        return sum((logits**2).sum() + halt.sum() for logits, halt in read)

    def own(params: Any) -> Any:
        found, _ = network.outputs(params, {}, codes, train=True)
        return loss(zip(found.logits, found.halt, strict=True))

    found = jax.jit(jax.grad(own))(params)
    close(found, jax.jit(jax.grad(lambda p: loss(unrolled(network, p, codes))))(params), 1e-4)
    if no_gradient == 0:
        through = jax.jit(jax.grad(lambda p: loss(unrolled(network, p, codes, frozen=False))))(params)
        assert float(jnp.abs(found["embedding"] - through["embedding"]).max()) > 1e-3


def test_the_program_does_not_grow_with_recursions_and_steps() -> None:
    def lines(network: Trm) -> int:
        params = parameters(network)
        text = jax.jit(lambda p: network.outputs(p, {}, CODES[:4], train=False)[0].logits).lower(params).as_text()
        return text.count("\n")

    deep = dataclasses.replace(TINY, recursions=9, supervision_steps=7)
    assert lines(deep) == lines(TINY)
    assert lines(dataclasses.replace(TINY, layers=2)) > lines(TINY)


def test_it_learns_the_answers_and_when_they_are_right() -> None:
    """Sixty steps of Adam on 16 maps bring the loss, of the answers and of the halting, below half."""
    maps = synthetic_maps(16, seed=0)
    codes, labels = TINY.codes(maps.maps), maps.labels[:, :N_LABELS].astype(np.float32)
    optimizer = optax.adam(0.02)

    def loss(params: Any) -> Any:
        found, _ = TINY.outputs(params, {}, codes, train=True)
        right = ((found.logits > 0) == (labels > 0)[None]).all(axis=2)
        answers = optax.sigmoid_binary_cross_entropy(found.logits, labels[None].repeat(3, axis=0)).mean()
        return answers + optax.sigmoid_binary_cross_entropy(found.halt, right.astype(jnp.float32)).mean()

    @jax.jit
    def step(params: Any, moments: Any) -> tuple[Any, Any, Any]:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, value

    params = parameters()
    moments = optimizer.init(params)
    values = []
    for _ in range(60):
        params, moments, value = step(params, moments)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def test_threshold_1_is_the_full_depth_bit_for_bit() -> None:
    params = parameters(spread=1.0)
    params["halt"]["bias"] = params["halt"]["bias"] + 30  # where float32 rounds the halting probability to 1
    full = jax.jit(lambda p, codes: TINY.outputs(p, {}, codes, train=False)[0])
    found = halted_logits(TINY, params, {}, CODES[:16], 1.0, batch=16)
    assert float(full(params, CODES[:16]).halt.max()) > 20
    np.testing.assert_array_equal(found.logits, full(params, CODES[:16]).logits[-1])
    np.testing.assert_array_equal(found.steps_used, 3)
    one = halted_logits(TINY, params, {}, CODES[:1], 1.0)
    np.testing.assert_array_equal(one.logits, full(params, CODES[:1]).logits[-1])
    assert one.steps_used.tolist() == [3]


def middle_threshold(halt: np.ndarray) -> float:
    """A threshold above the first step's halting probability of half the maps, in the widest gap near their median."""
    logits = np.sort(np.concatenate([halt[0], halt[1]]))[len(halt[0]) // 2 : -len(halt[0]) // 2]
    widest = int(np.diff(logits).argmax())
    return float(1 / (1 + np.exp(-(logits[widest] + logits[widest + 1]) / 2)))


def test_the_compacted_batch_is_one_map_at_a_time() -> None:
    """And both are the answers of a loop in Python, with the steps that it uses."""
    network, params = TINY, parameters(spread=1.0)
    read = [[np.asarray(array) for array in step] for step in unrolled(network, params, CODES)]
    halt = np.stack([array for _, array in read])
    threshold = middle_threshold(halt)
    wanted, steps = np.empty((len(CODES), N_LABELS)), np.empty(len(CODES), int)
    for i in range(len(CODES)):
        for step, (logits, halt_logits) in enumerate(read, start=1):
            wanted[i], steps[i] = logits[i], step
            if 1 / (1 + np.exp(-halt_logits[i])) > threshold:
                break
    assert set(steps) == {1, 2, 3}
    together = halted_logits(network, params, {}, CODES, threshold, batch=16)
    alone = [halted_logits(network, params, {}, code[None], threshold) for code in CODES]
    for found in (together, Halted(*(np.concatenate(arrays) for arrays in zip(*alone, strict=True)))):
        np.testing.assert_array_equal(found.steps_used, steps)
        close(found.logits, wanted)


def test_maps_that_have_halted_cost_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch they are taken out: as many rows run as maps go on, to the next power of two in the last batch."""
    params = parameters(spread=1.0)
    halt = np.stack([np.asarray(array) for _, array in unrolled(TINY, params, CODES)])
    threshold = middle_threshold(halt)
    sizes: list[int] = []
    advance = halting._advance

    def spy(network: Trm, params: Any, state: Any) -> Any:
        sizes.append(state.x.shape[1])
        return advance(network, params, state)

    monkeypatch.setattr(halting, "_advance", spy)
    found = halted_logits(TINY, params, {}, CODES, threshold, batch=16)
    wanted = []
    for step in range(1, 4):
        going = int((found.steps_used >= step).sum())
        wanted += [16] * (going // 16)
        if going % 16:
            wanted.append(2 ** int(np.ceil(np.log2(going % 16))))
    assert sizes == wanted
    assert sum(sizes) < 3 * len(CODES)


def test_one_map_runs_the_steps_that_it_uses() -> None:
    """Counted on the device, where the loop runs."""
    counted: list[int] = []

    @dataclasses.dataclass(frozen=True)
    class Counted(Trm):
        def advance(self, params: Any, state: Any) -> Any:
            jax.debug.callback(lambda: counted.append(1))
            return super().advance(params, state)

    network = Counted(**dataclasses.asdict(TINY))
    params = parameters(spread=1.0)
    halt = np.stack([np.asarray(array) for _, array in unrolled(TINY, params, CODES)])
    threshold = middle_threshold(halt)
    used = []
    for code in CODES:
        counted.clear()
        found = halted_logits(network, params, {}, code[None], threshold)
        jax.effects_barrier()
        assert len(counted) == found.steps_used[0]
        used.append(len(counted))
    assert set(used) == {1, 2, 3}


def test_a_map_without_dies_has_an_answer() -> None:
    nothing = np.zeros((2, 8, 8), np.uint8)
    params = parameters(spread=1.0)
    assert np.isfinite(halted_logits(TINY, params, {}, nothing, 0.5).logits).all()
    gradient = jax.jit(jax.grad(lambda p: TINY.outputs(p, {}, nothing, train=True)[0].logits.sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_tensors_come_back() -> None:
    params = parameters(spread=1.0)
    tensors = TINY.tensors(params, {})
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in tensors.values())
    assert {key: array.shape for key, array in tensors.items()} == TINY.shapes(N_LABELS)
    back, statistics = TINY.restored({**tensors, "training.train_ids": np.zeros(2, np.uint64)})
    assert statistics == {}
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for found, wanted in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert TINY.n_parameters(N_LABELS) == sum(array.size for array in tensors.values())
    for network, wrong in ((ATTENTIVE, tensors), (TINY, {}), (dataclasses.replace(TINY, width=16), tensors)):
        with pytest.raises(InputError, match="trm with these options"):
            network.restored(wrong)


def test_initial_weights_are_of_seed_and_name() -> None:
    """Equal for equal seeds; each tensor has its own stream, so that another depth leaves the others as they are."""
    first, again, other = (TINY.tensors(*TINY.initial(seed, N_LABELS)) for seed in (1, 1, 2))
    deeper = dataclasses.replace(TINY, layers=2).initial(1, N_LABELS)[0]
    for key, array in first.items():
        np.testing.assert_array_equal(array, again[key])
        kernel = key.rsplit(".", 1)[-1] in ("up", "down", "kernel", "embedding") and key != "halt.kernel"
        assert np.array_equal(array, other[key]) != kernel
    np.testing.assert_array_equal(deeper["core"]["layer0_tokens"]["up"], first["core.layer0_tokens.up"])
    halt = TINY.outputs(TINY.initial(1, N_LABELS)[0], {}, CODES[:2], train=False)[0].halt
    np.testing.assert_array_equal(halt, np.float32(TINY.halt_bias))  # every map starts deep


def test_the_frozen_network_gives_its_features(tmp_path: Path) -> None:
    params = parameters(spread=1.0)
    split = make_split(MAPS.labels, MAPS.content_ids, seed=0)
    tensors = TINY.tensors(params, {}) | id_tensors(split, MAPS.content_ids)
    write_tensors(tmp_path / "net.safetensors", tensors, {})
    extractor = network_extractor("trm", TINY, tmp_path / "net.safetensors")
    wanted = TINY.outputs(params, {}, CODES[:6], train=False)[0].features
    some = list(MAPS.maps[:6])
    close(extractor.features(some), wanted)
    assert extractor.quick is not None
    close(extractor.quick(some), wanted)
    assert extractor.split is not None
    np.testing.assert_array_equal(extractor.split(MAPS.content_ids), split.parts())
    assert extractor.record["network"]["width"] == 8
    with pytest.raises(InputError, match="trm with these options"):
        network_extractor("trm", ATTENTIVE, tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 1}, "`size` must be at least 2"),
        ({"patch": 3}, "`patch` must divide `size` = 64, got 3"),
        ({"patch": 64}, "must lie in \\[2, 64\\], got 64 / 64"),
        ({"size": 130, "patch": 2}, "must lie in \\[2, 64\\], got 130 / 2"),
        ({"width": 0}, "`width` must be at least 1"),
        ({"mixer": "mpl"}, "`mixer` must be one of attention, mlp, got 'mpl'; did you mean `mlp`"),
        ({"heads": 4}, "`heads` has no effect with the mixer mlp"),
        ({"mixer": "attention", "heads": 5}, "`width` per head must be a multiple of 4"),
        ({"mixer": "attention", "width": 36}, "`width` per head must be a multiple of 4"),
        ({"layers": 0}, "`layers` must be at least 1"),
        ({"supervision_steps": 0}, "`supervision_steps` must be at least 1"),
        ({"recursions": 0}, "`recursions` must be at least 1"),
        ({"expansion": 0}, "`expansion` must be at least 1"),
        ({"no_gradient": 6}, "`no_gradient` must be less than `recursions` = 6"),
        ({"no_gradient": -1}, "`no_gradient` must be at least 0"),
        ({"halt_bias": -30.0}, "`halt_bias` must lie in \\[-20, 20\\]"),
    ],
)
def test_a_bad_option_ends_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as raised:
        Trm(**options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("codes", "threshold", "sentence"),
    [
        (CODES[:2], 1.5, "`threshold` must lie in \\[0, 1\\]"),
        (CODES[:2, :6], 0.5, "`codes` must have shape \\(n, 8, 8\\)"),
        (CODES[:0], 0.5, "`codes` must have shape"),
        (CODES[:2].astype(float) + 0.5, 0.5, "`codes` must be whole numbers from 0 to 2"),
    ],
)
def test_codes_and_thresholds_that_cannot_be(codes: np.ndarray, threshold: float, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        halted_logits(TINY, parameters(), {}, codes, threshold)


def test_the_default_is_tiny() -> None:
    assert Trm().n_parameters(9) == 99_658
    assert (Trm().n_constant, Trm(recursions=1).n_constant, Trm(no_gradient=0).n_constant) == (4, 0, 0)


@pytest.fixture(scope="module", params=[True, False], ids=["exclusive", "several"])
def judged(request: pytest.FixtureRequest) -> tuple[WaferMaps, dict[str, Any], HaltingReport]:
    if request.param:
        classes = np.random.default_rng(0).integers(0, N_LABELS, len(MAPS))
        maps = WaferMaps.from_arrays(MAPS.maps, classes, label_names=("a", "b", "c"), exclusive=True)
    else:
        maps = WaferMaps.from_arrays(MAPS.maps, MAPS.labels[:, :N_LABELS], label_names=MAPS.label_names[:N_LABELS])
    params = parameters(spread=1.0)
    return maps, params, halting_report(TINY, params, {}, maps, thresholds=(1.0, 0.0, 0.5), threshold=0.5, timed=6)


def test_the_report_counts_what_halting_gives(judged: tuple[WaferMaps, dict[str, Any], HaltingReport]) -> None:
    """Accuracy and steps of each threshold are those of `halted_logits`; every map of a class is counted once."""
    maps, params, report = judged
    n = len(maps)
    assert (report.n_maps, report.n_timed, report.n_parameters) == (n, 6, TINY.n_parameters(N_LABELS))
    assert [row.threshold for row in report.rows] == [0.0, 0.5, 1.0]
    for row in report.rows:
        found = halted_logits(TINY, params, {}, CODES, row.threshold)
        if maps.exclusive:
            right = found.logits.argmax(axis=1) == maps.labels.argmax(axis=1)
        else:
            right = ((found.logits > 0) == (maps.labels > 0)).all(axis=1)
        assert row.accuracy == pytest.approx(right.mean())
        assert row.mean_steps == pytest.approx(found.steps_used.mean())
        assert 0 < row.p50 <= row.p90 <= row.p99
    assert report.accuracy_per_step[0] == report.rows[0].accuracy
    assert report.accuracy_per_step[-1] == report.rows[-1].accuracy
    steps = halted_logits(TINY, params, {}, CODES, 0.5).steps_used
    for name, column in zip(maps.label_names, maps.labels.T, strict=True):
        wanted = np.bincount(steps[column == 1], minlength=4)[1:]
        np.testing.assert_array_equal(report.steps_per_class[name], wanted)
    unlabelled = int((maps.labels.sum(axis=1) == 0).sum())
    assert sum(report.steps_per_class.get("no label", (0,))) == unlabelled
    assert (unlabelled == 0) == maps.exclusive


def test_the_report_is_drawn(judged: tuple[WaferMaps, dict[str, Any], HaltingReport]) -> None:
    *_, report = judged
    for figure in (halting_trade_off(report), halting_steps(report)):
        assert text_problems(figure) == []
    axes = halting_trade_off(report).axes
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [row.accuracy for row in report.rows])
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), [row.mean_steps for row in report.rows])
    widths = [bar.get_width() for bar in halting_steps(report).axes[0].patches]
    assert sum(widths) == pytest.approx(sum(any(counts) for counts in report.steps_per_class.values()))


def test_a_report_needs_labels() -> None:
    maps = WaferMaps.from_arrays(MAPS.maps[:3])
    with pytest.raises(InputError, match="`maps` must have labels"):
        halting_report(TINY, parameters(), {}, maps)

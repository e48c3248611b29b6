"""Masks that training draws inside the cell: recurrent and variational dropout, and zoneout."""

import copy
import pickle

import numpy as np
import pytest
from derivatives import Loss, check_central_differences
from hypothesis import given, settings
from problems import ISAS, REGULARIZERS, Problem, assert_same_bytes, called, named, regularizers, variant_problems

import clstm
from clstm import _core

each_regularizer = pytest.mark.parametrize(
    "options", [*({name: 0.3} for name in REGULARIZERS), dict.fromkeys(REGULARIZERS, 0.3)], ids="+".join
)


# ---- recurrent dropout ----


def recurrent_masks(p, T, B, H, **options):
    """The factors on g: outputs of a network that adds them up."""
    one = ["affine", 0, 1]
    functions = {"i": one, "g": one, "o": one, "h": "identity"}
    options = {"forget_gate": False, "activations": functions, "seed": 0, "dtype": "float64"} | options
    lstm = clstm.LSTM(1, H, recurrent_dropout=p, **options)
    y, _, _ = lstm.forward(np.zeros((T, B, 1)))
    return np.diff(y, axis=0, prepend=0), lstm


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_recurrent_dropout_scales_what_it_keeps(p):
    masks, lstm = recurrent_masks(p, 40, 50, 30)
    kept = masks > 0.5
    np.testing.assert_allclose(masks, kept / (1 - p), atol=1e-12)
    for axes in ((1, 2), (0, 2), (0, 1)):  # each step, row and unit has masks of its own
        assert np.all(np.abs(kept.mean(axes) - (1 - p)) < 0.12)
    again, _ = recurrent_masks(p, 40, 50, 30)
    assert_same_bytes(again, masks)
    later = np.diff(lstm.forward(np.zeros((40, 50, 1)))[0], axis=0, prepend=0)
    assert 0 < np.mean((later > 0.5) == kept) < 1
    assert_same_bytes(lstm(np.zeros((40, 50, 1)))[0][-1], np.full((50, 30), 40.0))  # the expectation


def test_recurrent_dropout_of_all_or_nothing():
    assert not recurrent_masks(1.0, 5, 3, 4)[0].any()
    assert "recurrent_dropout" not in clstm.LSTM(3, 4, recurrent_dropout=0).config()


def test_directions_and_layers_have_masks_of_their_own():
    masks, _ = recurrent_masks(0.5, 30, 20, 10, bidirectional=True)
    forward, reverse = masks[..., :10] > 0.5, np.diff(masks[..., 10:], axis=0) != 0
    assert 0.3 < np.mean(forward[1:] == reverse) < 0.7


# ---- zoneout ----


@pytest.mark.parametrize("variant", [{}, {"proj_size": 5, "peepholes": True}, {"layer_norm": True}], ids=str)
def test_zoneout_takes_each_element_from_before_or_from_the_new_step(variant):
    lstm = clstm.LSTM(3, 9, zoneout_c=0.4, zoneout_h=0.7, seed=0, **variant)
    without = clstm.LSTM(3, 9, seed=0, **variant)
    x = np.random.default_rng(0).standard_normal((1, 200, 3)).astype(np.float32)
    before = without(x)[1]
    _, expected = without(x, before)
    _, found, _ = lstm.forward(x, before)
    for old, new, array, p in zip(before, expected, found, (0.7, 0.4), strict=True):
        assert np.all((array == old) | (array == new))
        assert abs(np.mean(array == old) - p) < 0.05


def test_zoneout_draws_for_each_step_row_and_unit():
    x = np.random.default_rng(0).standard_normal((40, 50, 3)).astype(np.float32)
    y, _, _ = clstm.LSTM(3, 30, zoneout_h=0.3, seed=0).forward(x)
    one = ["affine", 0, 1]
    counting = {"forget_gate": False, "activations": {"i": one, "g": one, "o": one, "h": "identity"}}
    h, _, _ = clstm.LSTM(3, 30, zoneout_c=0.3, seed=0, **counting).forward(x)  # 1 more than the c before
    for stayed in (y[1:] == y[:-1], h[1:] == h[:-1]):
        for axes in ((1, 2), (0, 2), (0, 1)):
            assert np.all(np.abs(stayed.mean(axes) - 0.3) < 0.12)


def test_zoneout_of_all_keeps_the_state():
    problem = Problem(3, 9, 2, True, variant={"zoneout_c": 1, "zoneout_h": 1})
    lstm, batch = problem.lstm(), problem.batch()
    _, state, tape = lstm.forward(batch.x, batch.state)
    _, dstate, grads = lstm.backward(tape, None, batch.dstate)
    assert_same_bytes(dict(zip("hc", state, strict=True)), dict(zip("hc", batch.state, strict=True)))
    assert_same_bytes(dict(zip("hc", dstate, strict=True)), dict(zip("hc", batch.dstate, strict=True)))
    assert not any(array.any() for array in grads.values())


# ---- variational dropout ----


def test_variational_dropout_has_one_mask_for_all_steps_of_a_row():
    x = np.random.default_rng(0).standard_normal((6, 50, 40)).astype(np.float32)
    state = tuple(np.random.default_rng(1).standard_normal((2, 1, 50, 30)).astype(np.float32))
    plain, scale = clstm.LSTM(40, 30, seed=0), np.float32(1 / 0.7)

    on_x = clstm.LSTM(40, 30, seed=0, variational_dropout_x=0.3)
    y, _, tape = on_x.forward(x)
    kept = on_x.backward(tape, np.ones_like(y))[0] != 0
    assert np.all(kept == kept[0])
    assert_same_bytes(y, plain(x * kept * scale)[0])
    assert_same_bytes(on_x(x)[0], plain(x)[0])

    on_h = clstm.LSTM(40, 30, seed=0, variational_dropout_h=0.3)
    y, _, tape = on_h.forward(x, state)
    kept_h = on_h.backward(tape, np.ones_like(y))[1][0] != 0
    for t in range(6):
        y_t, state = plain(x[t : t + 1], (state[0] * kept_h * scale, state[1]))
        assert_same_bytes(y[t], y_t[0])

    for mask in (kept[0], kept_h[0]):  # each row and feature has masks of its own
        assert np.all(np.abs(mask.mean(0) - 0.7) < 0.25)
        assert np.all(np.abs(mask.mean(1) - 0.7) < 0.3)
        assert abs(mask.mean() - 0.7) < 0.05


def test_variational_dropout_differs_between_layers_and_directions():
    lstm = clstm.LSTM(40, 40, 2, bidirectional=True, variational_dropout_x=0.5, variational_dropout_h=0.5, seed=0)
    y, _, tape = lstm.forward(np.ones((9, 1, 40)), (np.ones((4, 1, 40)), np.ones((4, 1, 40))))
    dx, (dh_0, _), grads = lstm.backward(tape, np.ones_like(y))
    below, above = dx[0, 0] != 0, np.any(grads["weight_ih_l1"] != 0, axis=0)
    masks = [below, above[:40], above[40:], *(dh_0[:, 0] != 0)]
    for i, mask in enumerate(masks):
        assert 0.2 < mask.mean() < 0.8
        assert all(0.2 < np.mean(mask == other) < 0.8 for other in masks[:i])


# ---- all of them ----


@each_regularizer
@pytest.mark.parametrize("bidirectional", [False, True])
def test_checkpoints_make_the_same_masks_again(bidirectional, options):
    variant = {"layer_norm": True, "peepholes": True, "dropout": 0.2, **options}
    problem = Problem(3, 9, 2, bidirectional, T=13, B=5, with_lengths=True, variant=variant)
    found = []
    for checkpoint in (False, 4):
        lstm, batch = problem.lstm(), problem.batch()
        y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths, checkpoint=checkpoint)
        dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
        found.append(named(y, state) | {"dx": dx, "dh": dstate[0], "dc": dstate[1]} | grads)
    assert_same_bytes(*found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_regularizer
def test_masks_have_the_same_bits_on_any_machine(options, dtype):
    options = {"dropout": 0.2, "proj_size": 7, "layer_norm": True, **options}
    problem = Problem(17, 65, 2, True, dtype=dtype, T=9, B=33, with_lengths=True, variant=options)
    found = []
    for isa, threads in [*((isa, 1) for isa in ISAS), (ISAS[0], 2), (ISAS[0], 3)]:
        _core.set_isa(isa)
        clstm.set_num_threads(threads)
        lstm, batch = problem.lstm(), problem.batch()
        plain = {f"plain {name}": array for name, array in called(lstm, batch).items()}
        y, state, tape = lstm.forward(batch.x, batch.state, batch.lengths)
        dx, dstate, grads = lstm.backward(tape, batch.dy, batch.dstate)
        found.append(plain | named(y, state) | {"dx": dx, "dh": dstate[0], "dc": dstate[1]} | grads)
        assert_same_bytes(found[-1], found[0])


@settings(max_examples=25)
@given(
    variant_problems(
        smooth=True, sizes=(1, 2, 3, 9), layers=(1, 2), batches=(1, 2, 5), steps=(1, 3, 7), dtypes=["float64"]
    ),
    regularizers(),
)
def test_gradients_through_masks_agree_with_central_differences(problem, options):
    check_central_differences(Loss(problem, **options), problem.seed)


@each_regularizer
def test_gradients_of_long_sequences_through_masks_agree_with_central_differences(options):
    """More steps than are handled at once."""
    problem = Problem(3, 5, 2, True, dtype="float64", T=130, B=3, with_lengths=True)
    check_central_differences(Loss(problem, **options), 0)


@each_regularizer
def test_regularizers_are_kept(options, tmp_path):
    lstm = clstm.LSTM(3, 9, seed=0, **options)
    x = np.ones((4, 2, 3), np.float32)
    lstm.save(tmp_path / "file.safetensors")
    for same in (clstm.LSTM(**lstm.config()), clstm.LSTM.load(tmp_path / "file.safetensors")):
        assert same.config() == lstm.config() == {**clstm.LSTM(3, 9).config(), **options}
        assert repr(same) == repr(lstm)
    assert_same_bytes(pickle.loads(pickle.dumps(lstm)).forward(x)[0], copy.deepcopy(lstm).forward(x)[0])
    assert not np.array_equal(lstm.forward(x)[0], lstm.forward(x)[0])
    for name in options:
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(lstm, name, 0.0)
        with pytest.raises(ValueError, match=f"{name} is 1.5, but a number from 0 to 1 is expected"):
            clstm.LSTM(3, 9, **{name: 1.5})

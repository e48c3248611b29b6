"""The options of variants: configuration, copies, files, parameters, and what wrong ones are told."""

import copy
import pickle

import numpy as np
import pytest
from problems import EVERYTHING, Problem, assert_same_bytes, each_variant, outputs

import clstm


@each_variant
def test_configuration_copies_and_files(variant, tmp_path):
    problem = Problem(3, 9, 2, True, variant=variant)
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    lstm.save(tmp_path / "file.safetensors")
    twin = clstm.LSTM(**lstm.config())
    twin.load_state_dict(lstm.state_dict())
    for same in (
        twin,
        clstm.LSTM.load(tmp_path / "file.safetensors"),
        copy.deepcopy(lstm),
        pickle.loads(pickle.dumps(lstm)),
        eval(repr(lstm), {"LSTM": type(lstm)}).load_state_dict(lstm.state_dict()) or twin,
    ):
        assert same.config() == lstm.config()
        assert repr(same) == repr(lstm)
        assert_same_bytes(outputs(same, batch), expected)
    for name in variant:
        assert f"{name}=" in repr(lstm)
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(lstm, name, None)


def test_the_plain_network_is_described_as_before():
    assert clstm.LSTM(3, 4).config().keys() == {
        *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype")
    }
    usual = {"activations": {"i": "sigmoid", "h": "tanh"}, "clip": None, "coupling": None, "forget_gate": True}
    assert clstm.LSTM(3, 4, **usual).config() == clstm.LSTM(3, 4).config()


def test_gates_without_weights_have_no_parameters():
    for options in ({"coupling": "forget"}, {"coupling": "input"}, {"forget_gate": False}):
        lstm = clstm.LSTM(3, 4, peepholes=True, **options)
        shapes = {name: array.shape for name, array in lstm.parameters().items()}
        assert shapes == {
            "weight_ih_l0": (12, 3),
            "weight_hh_l0": (12, 4),
            "bias_ih_l0": (12,),
            "bias_hh_l0": (12,),
            "weight_ch_l0": (2, 4),
        }


def test_three_activations_are_those_of_gates_candidate_and_output():
    lstm = clstm.LSTM(3, 4, activations=["hard_sigmoid", "softsign", ("elu", 2)])
    gate = ("hard_sigmoid", 0.2, 0.5)
    assert lstm.activations == {"i": gate, "f": gate, "g": "softsign", "o": gate, "h": ("elu", 2.0)}


def test_a_cell_takes_the_same_options():
    cell = clstm.LSTMCell(3, 9, seed=0, **EVERYTHING)
    lstm = clstm.LSTM(3, 9, seed=0, **EVERYTHING)
    x = np.ones((2, 3), np.float32)
    h, c = cell(x)
    assert_same_bytes(np.concatenate([h, c], 1), np.concatenate([a[0] for a in lstm(x[None])[1]], 1))
    (h, c), tape = cell.forward(x, (h, c))
    dx, dstate, grads = cell.backward(tape, np.ones_like(h), np.ones_like(c))
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in cell.parameters().items()}
    assert (dstate[0].shape, dstate[1].shape) == ((2, 5), (2, 9))
    assert clstm.LSTMCell(**cell.config()).config() == cell.config()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"proj_size": 4}, ValueError, "proj_size is 4, but less than hidden_size 4 is expected"),
        ({"proj_size": -1}, ValueError, "proj_size is -1, but at least 0 is expected"),
        ({"proj_size": 1.5}, TypeError, "proj_size is 1.5, but an integer is expected"),
        ({"peepholes": 1}, TypeError, "peepholes is 1, but True or False is expected"),
        ({"coupling": "f"}, ValueError, "coupling is 'f', but None, 'forget' .* or 'input' .* is expected"),
        ({"coupling": "forget", "forget_gate": False}, ValueError, "coupling is 'forget', but forget_gate is False"),
        ({"forget_gate": None}, TypeError, "forget_gate is None, but True or False is expected"),
        ({"activations": "relu"}, TypeError, "activations is 'relu', but a dict with keys"),
        ({"activations": {"c": "relu"}}, ValueError, "activations has 'c', but its keys are 'i', 'f', 'g', 'o', 'h'"),
        ({"activations": {"g": "swish"}}, ValueError, r"activations\['g'\] is 'swish', but known are sigmoid, tanh"),
        ({"activations": {"g": None}}, ValueError, r"activations\['g'\] is None, but known are sigmoid, tanh"),
        ({"activations": {"g": ("relu", 1)}}, ValueError, "but relu takes no parameters"),
        ({"activations": {"g": ("elu", 1, 2)}}, ValueError, "but elu takes alpha$"),
        ({"activations": {"g": ("elu", np.inf)}}, ValueError, r"alpha of activations\['g'\] is inf, but a finite"),
        ({"activations": {"g": ("elu", "1")}}, TypeError, r"alpha of activations\['g'\] is '1', but a number"),
        ({"activations": {"f": "relu"}, "forget_gate": False}, ValueError, "activations has 'f', but forget_gate"),
        ({"layer_norm": 1e-5}, TypeError, "layer_norm is 1e-05, but True or False is expected"),
        (
            {"layer_norm": True, "layer_norm_eps": 0},
            ValueError,
            "layer_norm_eps is 0.0, but a number above 0 is expected",
        ),
        ({"layer_norm": True, "layer_norm_eps": None}, TypeError, "layer_norm_eps is None, but a number is expected"),
        ({"layer_norm_eps": 0.1}, ValueError, "layer_norm_eps is 0.1, but layer_norm is False"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state is 1, but True or False is expected"),
        ({"clip": 1e-40}, ValueError, "clip is 1e-40, but at least 1.17"),
        ({"zoneout_c": 1e-45}, ValueError, "zoneout_c is 1e-45, but at least 1.17.* is expected: less counts as 0"),
        ({"clip": 0}, ValueError, "clip is 0.0, but a number above 0, or None for no limit, is expected"),
        ({"clip": -1.0}, ValueError, "clip is -1.0, but a number above 0"),
        ({"cell_clip": True}, TypeError, "cell_clip is True, but a number is expected"),
        ({"proj_clip": np.nan, "proj_size": 2}, ValueError, "proj_clip is nan, but a finite number is expected"),
        ({"proj_clip": 1.0}, ValueError, "proj_clip is 1.0, but proj_size is 0: there is no projection to limit"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    for kind in (clstm.LSTM, clstm.LSTMCell):
        with pytest.raises(error, match=message):
            kind(3, 4, **options)

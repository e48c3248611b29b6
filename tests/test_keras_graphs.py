"""Functional models of Keras: branches, joined masks, operations on tensors, named inputs and outputs, any order."""

import numpy as np
import pytest
from keras_builders import MASKS, B, I, KerasLstm, T, assert_close, chained, functional, write_h5

import clstm


def tensor(name, index=0):
    return {"class_name": "__keras_tensor__", "config": {"shape": None, "keras_history": [name, 0, index]}}


def used(name, index=0, *numbers, **options):
    """How Keras 3 writes a use of a layer or an operation: of one tensor, or of several."""
    names = [name] if isinstance(name, str) else name
    tensors = [tensor(name, index) for name in names]
    return {"args": [*tensors, *numbers], "kwargs": options}


@pytest.mark.parametrize("version", ["2.4.0", "3.5.0"])
def test_encoder_and_decoder(tmp_path, rng, version):
    encoder, decoder = KerasLstm(rng), KerasLstm(rng, features=2)
    if version < "3":
        nodes = [[["a", 0, 0, {}]], [["b", 0, 0, {}], ["encoder", 0, 1, {}], ["encoder", 0, 2, {}]]]
    else:
        state = [tensor("encoder", 1), tensor("encoder", 2)]
        nodes = [{"args": [tensor("a")], "kwargs": {}}, {"args": [tensor("b")], "kwargs": {"initial_state": state}}]
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "a"}}, None),
        ({"class_name": "InputLayer", "config": {"name": "b"}}, None),
        (decoder.layer("decoder", return_sequences=True), nodes[1]),  # not in the order in which they can run
        (encoder.layer("encoder", return_state=True), nodes[0]),
    ]
    config = functional(layers, [["a", 0, 0], ["b", 0, 0]], [["decoder", 0, 0]])
    arrays = {"a": [], "b": [], "encoder": encoder.arrays, "decoder": decoder.arrays}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays, version))
    assert (model.inputs, set(model.lstms)) == (("a", "b"), {"encoder", "decoder"})
    a, b = rng.standard_normal((B, T, I)), rng.standard_normal((B, 3, 2))
    assert_close(model({"a": a, "b": b}), decoder(b, state=encoder(a)[1], sequences=True)[0])
    with pytest.raises(ValueError, match="inputs has a, but a, b are expected"):
        model({"a": a})


def test_a_model_that_names_its_inputs_and_outputs(tmp_path, rng):
    lstm = KerasLstm(rng)
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        ({"class_name": "InputLayer", "config": {"name": "m", "dtype": "bool"}}, None),
        (lstm.layer(return_state=True), used("x", mask=tensor("m"))),
    ]
    config = functional(
        layers, {"samples": ["x", 0, 0], "valid": ["m", 0, 0]}, {"c": ["rnn", 0, 2], "y": ["rnn", 0, 0]}
    )
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}, "3.15.1"))
    assert model.inputs == ("samples", "valid")
    x, mask = rng.standard_normal((B, T, I)), MASKS["holes"]
    found, (y, (_, c)) = model({"samples": x, "valid": mask}), lstm(x, mask)
    assert list(found) == ["c", "y"]
    assert_close(found["c"], c)
    assert_close(found["y"], y)


def test_layers_in_any_order(tmp_path, rng):
    names = [f"l{i}" for i in range(2000)]
    rescaling = {"class_name": "Rescaling", "config": {"scale": 1.0, "offset": 1.0}}
    layers = [
        (rescaling | {"config": rescaling["config"] | {"name": name}}, [[before, 0, 0, {}]])
        for before, name in zip(["x", *names], names, strict=False)
    ]
    layers.append(({"class_name": "InputLayer", "config": {"name": "x"}}, None))
    config = functional(layers[::-1], [["x", 0, 0]], [[names[-1], 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))
    assert_close(model(np.zeros((1, 2))), np.full((1, 2), 2000))


def test_layers_in_a_circle_are_refused(tmp_path):
    config = chained("Add", 3)
    config["config"]["layers"][1]["inbound_nodes"][0][0] = ["l3", 0, 0, {}]
    with pytest.raises(ValueError, match=r"cannot be loaded: layer 'l\d' reads what is made of its own output"):
        clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))


def test_an_input_that_no_layer_makes_is_refused(tmp_path):
    config = chained("Add", 3)
    config["config"]["layers"][2]["inbound_nodes"][0][0] = ["other", 0, 0, {}]
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}))
    with pytest.raises(ValueError, match="layer 'l2' reads what layer 'other' does not make"):
        model(np.zeros((2, 2)))


# ---- masks of joined branches ----


@pytest.mark.parametrize("joined", ["features", "time", "sum"])
def test_masks_of_joined_branches(tmp_path, rng, joined):
    """As in Keras 2: a step counts where it does in all of them, and everywhere in one without a mask."""
    config = {"name": "joined"} | {"features": {"axis": -1}, "time": {"axis": 1}, "sum": {}}[joined]
    kind = "Add" if joined == "sum" else "Concatenate"
    lstm = KerasLstm(rng, features=3 * I if joined == "features" else I)
    layers = [({"class_name": "InputLayer", "config": {"name": name}}, None) for name in "abc"]
    layers += [({"class_name": "Masking", "config": {"name": f"m{name}"}}, [[name, 0, 0, {}]]) for name in "ab"]
    layers.append(({"class_name": kind, "config": config}, [[name, 0, 0, {}] for name in ("c", "ma", "mb")]))
    layers.append((lstm.layer(), [["joined", 0, 0, {}]]))
    config = functional(layers, [[name, 0, 0] for name in "abc"], [["rnn", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}))
    masks = rng.random((3, B, T)) < 0.6
    masks[2] = True
    a, b, c = arrays = rng.standard_normal((3, B, T, I)) * masks[..., None]
    if joined == "time":
        x, mask = np.concatenate([c, a, b], axis=1), np.concatenate([masks[2], masks[0], masks[1]], axis=1)
    else:
        x, mask = np.concatenate([c, a, b], axis=-1) if joined == "features" else sum(arrays), masks.all(axis=0)
    assert_close(model({"a": a, "b": b, "c": c}), lstm(x, mask)[0])


def operation(kind, name, **config):
    """With the name of its module, as in a .keras file."""
    return {"class_name": kind, "module": "keras.src.ops.numpy", "config": {"name": name} | config}


def without_module(layers):
    """As in an .h5 file."""
    return [({key: value for key, value in layer.items() if key != "module"}, node) for layer, node in layers]


def masked_branches(joined, config):
    """What Keras 3.15 writes for two inputs with Masking behind each, joined in front of an LSTM, but for that LSTM."""
    layers = []
    for name in "ab":
        layers += [
            ({"class_name": "InputLayer", "config": {"name": name}}, None),
            ({"class_name": "Masking", "config": {"name": f"m{name}", "trainable": True}}, used(name)),
            (operation("NotEqual", f"ne{name}"), used(name, 0, 0.0)),
            (operation("Any", f"any{name}", axis=-1, keepdims=False), used(f"ne{name}")),
        ]
    layers.append(
        ({"class_name": joined, "config": {"name": "joined", "trainable": True} | config}, used(["ma", "mb"]))
    )
    if joined == "Add":
        return [*layers, (operation("LogicalOr", "mask"), used(["anya", "anyb"]))]
    for name in "ab":
        layers += [
            (operation("ExpandDims", f"wide{name}", axis=-1), used(f"any{name}")),
            (operation("ZerosLike", f"zeros{name}", dtype="bool"), used(f"m{name}")),
            (operation("LogicalOr", f"or{name}"), used([f"wide{name}", f"zeros{name}"])),
        ]
    layers.append((operation("Concatenate", "all", **config), {"args": [[tensor("ora"), tensor("orb")]], "kwargs": {}}))
    return [*layers, (operation("Any", "mask", axis=-1, keepdims=False), used("all"))]


@pytest.mark.parametrize("modules", [True, False])
@pytest.mark.parametrize("joined", ["features", "time", "sum"])
def test_masks_of_joined_branches_in_keras_3(tmp_path, rng, joined, modules):
    """A step counts where it does in any of them, and the file says so, operation by operation."""
    kind, config = ("Add", {}) if joined == "sum" else ("Concatenate", {"axis": -1 if joined == "features" else 1})
    lstm = KerasLstm(rng, features=2 * I if joined == "features" else I)
    layers = [*masked_branches(kind, config), (lstm.layer(trainable=True), used("joined", mask=tensor("mask")))]
    layers = layers if modules else without_module(layers)
    config = functional(layers, [["a", 0, 0], ["b", 0, 0]], [["rnn", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {"rnn": lstm.arrays}, "3.15.1"))
    masks = rng.random((2, B, T)) < 0.5
    a, b = rng.standard_normal((2, B, T, I)) * masks[..., None]
    axis = 1 if joined == "time" else -1
    x = a + b if joined == "sum" else np.concatenate([a, b], axis)
    mask = np.concatenate(list(masks), axis=1) if joined == "time" else masks.any(axis=0)
    assert_close(model({"a": a, "b": b}), lstm(x, mask)[0])


def test_a_mask_counts_in_keras_3_only_where_it_is_written(tmp_path, rng):
    """Keras 3 gives a decoder with an initial state no mask."""
    encoder, decoder = KerasLstm(rng), KerasLstm(rng)
    table = rng.standard_normal((7, I)).astype("f")
    state = [tensor("encoder", 1), tensor("encoder", 2)]
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        ({"class_name": "Embedding", "config": {"name": "table", "mask_zero": True}}, used("x")),
        (operation("NotEqual", "mask"), used("x", 0, 0)),
        (encoder.layer("encoder", return_state=True), used("table", mask=tensor("mask"))),
        (decoder.layer("decoder"), used("table", initial_state=state)),
    ]
    config = functional(layers, [["x", 0, 0]], [["decoder", 0, 0]])
    arrays = {"table": [table], "encoder": encoder.arrays, "decoder": decoder.arrays}
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, arrays, "3.15.1"))
    x = np.array([[1, 0, 2, 0], [3, 4, 0, 0]])
    assert_close(model(x), decoder(table[x], state=encoder(table[x], x != 0)[1])[0])


# ---- operations on tensors ----


@pytest.mark.parametrize("modules", [True, False])
def test_numbers_among_the_arguments_of_an_operation(tmp_path, rng, modules):
    """x + 1 is no layer Add of x alone."""
    layers = [
        ({"class_name": "InputLayer", "config": {"name": "x"}}, None),
        (operation("Multiply", "times"), used("x", 0, 3)),
        (operation("Subtract", "minus"), {"args": [1.5, tensor("times")], "kwargs": {}}),
    ]
    config = functional(layers if modules else without_module(layers), [["x", 0, 0]], [["minus", 0, 0]])
    x = rng.standard_normal((2, 3))
    assert_close(clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))(x), 1.5 - 3 * x)
    layers[1] = (operation("Multiply", "times"), used("x", 0, [1, 2, 3]))
    config = functional(layers, [["x", 0, 0]], [["minus", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))
    with pytest.raises(NotImplementedError, match=r"times \(Multiply: the argument \[1, 2, 3\] is not supported"):
        model(x)


def test_an_operation_with_a_tensor_too_few_is_refused(tmp_path):
    odd = used("x") | {"args": [tensor("x"), {"class_name": "__keras_tensor__", "config": {"keras_history": []}}]}
    layers = [({"class_name": "InputLayer", "config": {"name": "x"}}, None), (operation("Add", "sum"), odd)]
    config = functional(layers, [["x", 0, 0]], [["sum", 0, 0]])
    model = clstm.from_keras(write_h5(tmp_path / "m.h5", config, {}, "3.15.1"))
    with pytest.raises(ValueError, match="layer 'sum' cannot be computed: there are 1 tensors"):
        model(np.zeros((2, 3)))

"""Models that Keras itself makes, saves and runs."""

import os

import numpy as np
import pytest

import clstm

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("torch", reason="PyTorch, on which Keras runs here, is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed", minversion="3.15")
layers, Input, Model = keras.layers, keras.Input, keras.Model
LSTM, Bidirectional, Dense, Masking = layers.LSTM, layers.Bidirectional, layers.Dense, layers.Masking

T, B, I, H = 6, 3, 4, 5

X = np.random.default_rng(0).standard_normal((B, T, I)).astype("f")
X[0, 3:] = X[1, 0] = X[2, 2] = 0
OTHER = np.roll(X[::-1], 1, axis=1)
TOKENS = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 6, 7, 8], [0, 9, 1, 2, 3, 4]])


def chain(*parts):
    return lambda: keras.Sequential([Input((T, I)), *(part() for part in parts)])


def texts(*parts, **options):
    return lambda: keras.Sequential([Input((T,)), layers.Embedding(10, I, **options), *(part() for part in parts)])


def lstm(units=H, **options):
    return lambda: LSTM(units, **options)


def bidirectional(merge_mode="concat", **options):
    return lambda: Bidirectional(LSTM(H, **options), merge_mode=merge_mode)


def functional(make, inputs=1):
    """A model of a function of inputs."""

    def build():
        given = [Input((T, I), name=name) for name in "ab"[:inputs]]
        return Model(given if inputs > 1 else given[0], make(*given))

    return build


def states(x):
    return LSTM(H, return_sequences=True, return_state=True)(x)


def encoder_and_decoder(a, b):
    _, h, c = LSTM(H, return_state=True)(Masking()(a))
    return Dense(2)(LSTM(H, return_sequences=True)(Masking()(b), initial_state=[h, c]))


def joined(layer):
    return lambda a, b: LSTM(H)(layer()([Masking()(a), Masking()(b)]))


def half_masked(layer):
    return lambda a, b: LSTM(H)(layer()([a, Masking()(b)]))


def residual(a):
    x = Masking()(a)
    for _ in range(2):
        x = layers.Add()([x, LSTM(I, return_sequences=True)(x)])
    return LSTM(2)(x)


def two_directions_by_hand(a):
    x = Masking()(a)
    parts = [LSTM(H, return_sequences=True, go_backwards=backwards)(x) for backwards in (False, True)]
    return LSTM(3)(layers.Concatenate()(parts))


def layers_between(a):
    x = layers.Dropout(0.1)(layers.Activation("tanh")(layers.LayerNormalization()(Dense(4)(Masking()(a)))))
    return layers.GlobalAveragePooling1D()(LSTM(H, return_sequences=True)(layers.BatchNormalization()(x)))


def shared(a):
    layer = LSTM(I, return_sequences=True)
    return 2 * layer(layer(a)) + 1


def tagger(a):
    x = Bidirectional(LSTM(H, return_sequences=True))(Masking()(a))
    return [layers.TimeDistributed(Dense(3, activation="softmax"))(x), Bidirectional(LSTM(2))(x)]


MODELS = {
    "last step": chain(lstm()),
    "stack": chain(lstm(return_sequences=True), lstm(return_sequences=True, dropout=0.2), lstm(3), lambda: Dense(2)),
    "masked stack": chain(Masking, lstm(return_sequences=True), lstm(return_sequences=True), lstm(3)),
    "backwards": chain(Masking, lstm(go_backwards=True, return_sequences=True), lstm(3)),
    "zeros where masked": chain(Masking, lstm(return_sequences=True, zero_output_for_mask=True)),
    "no bias": chain(lstm(use_bias=False)),
    "hard sigmoid": chain(lstm(recurrent_activation="hard_sigmoid")),
    "leaky relu": chain(lstm(activation="leaky_relu")),
    "float64": chain(lstm(dtype="float64", return_sequences=True)),
    "repeated": chain(lstm(), lambda: layers.RepeatVector(4), lstm(return_sequences=True)),
    "texts": texts(lstm(return_sequences=True), lambda: layers.TimeDistributed(Dense(2, "relu")), mask_zero=True),
    "texts without a mask": texts(lambda: layers.Dropout(0.3), bidirectional(), lambda: Dense(1, "sigmoid")),
    **{
        f"{merge}, {'all' if all_steps else 'last'}": chain(Masking, bidirectional(merge, return_sequences=all_steps))
        for merge in ("concat", "sum", "mul", "ave")
        for all_steps in (True, False)
    },
    "both directions, twice": chain(Masking, *[bidirectional("sum", return_sequences=True)] * 2, lstm()),
    "states": functional(states),
    "states of both directions": functional(
        lambda a: Bidirectional(LSTM(H, return_sequences=True, return_state=True))(a)
    ),
    "both directions apart": functional(lambda a: Bidirectional(LSTM(H), merge_mode=None)(a)),
    "encoder and decoder": functional(encoder_and_decoder, 2),
    **{
        f"{kind.__name__} of {'half' if make is half_masked else 'all'}": functional(make(kind), 2)
        for kind in (layers.Add, layers.Subtract, layers.Average, layers.Concatenate)
        for make in (joined, half_masked)
    },
    "joined in time": functional(joined(lambda: layers.Concatenate(axis=1)), 2),
    "residual": functional(residual),
    "two directions by hand": functional(two_directions_by_hand),
    "layers between": functional(layers_between),
    "shared": functional(shared),
    "tagger": functional(tagger),
}  # fmt: skip


def made(name, rng):
    """The model with values of its own in every variable, and its inputs."""
    model = MODELS[name]()
    for variable in model.weights:
        if variable.path.split("/")[-1] not in ("seed_generator_state", "moving_variance"):
            variable.assign(0.6 * rng.standard_normal(variable.shape))
    return model, {"a": X, "b": OTHER} if len(model.inputs) > 1 else TOKENS if name.startswith("texts") else X


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [".keras", ".h5"])
@pytest.mark.parametrize("name", MODELS)
def test_models(tmp_path, rng, name, kind):
    model, x = made(name, rng)
    expected = model(x, training=False)
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    model.save(tmp_path / f"m{kind}")
    found = clstm.from_keras(tmp_path / f"m{kind}")(x)
    for array, tensor in zip(found if isinstance(found, tuple) else [found], expected, strict=True):
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["stack", "both directions, twice", "encoder and decoder"])
def test_weights(tmp_path, rng, name):
    model, _ = made(name, rng)
    model.save_weights(tmp_path / "m.weights.h5")
    model.save(tmp_path / "m.keras")
    found, whole = (clstm.from_keras(tmp_path / file).lstms for file in ("m.weights.h5", "m.keras"))
    assert found.keys() == whole.keys()
    for key, lstm in whole.items():
        np.testing.assert_equal(found[key].state_dict(), lstm.state_dict())


@pytest.mark.filterwarnings("ignore")
def test_a_stateful_layer(tmp_path, rng):
    model = keras.Sequential([Input(batch_shape=(B, T, I)), LSTM(H, stateful=True, return_sequences=True)])
    model.save(tmp_path / "m.keras")
    found = clstm.from_keras(tmp_path / "m.keras")
    for x in (X, OTHER):
        np.testing.assert_allclose(found(x), model(x).detach().numpy(), rtol=1e-5, atol=2e-6)
    found.reset_state()
    model.layers[0].reset_state()
    np.testing.assert_allclose(found(OTHER), model(OTHER).detach().numpy(), rtol=1e-5, atol=2e-6)


NO_ACTIVATIONS = ("deserialize", "get", "serialize", "threshold")  # the last one needs arguments
NAMES = [name for name in dir(keras.activations) if not name.startswith("_") and name not in NO_ACTIVATIONS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_activations_are_right_or_refused_by_name(tmp_path, rng, name):
    model = keras.Sequential([Input((4,)), layers.Activation(name)])
    model.save(tmp_path / "m.keras")
    found, x = clstm.from_keras(tmp_path / "m.keras"), 3 * rng.standard_normal((5, 4)).astype("f")
    if found.unsupported:
        assert found.unsupported[0].startswith(f"{model.layers[0].name} (Activation: the activation {name!r}")
    else:
        np.testing.assert_allclose(found(x), model(x).detach().numpy(), rtol=1e-5, atol=2e-6)

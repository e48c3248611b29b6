"""Writes the inputs that readers.py starts from, with the builders of the tests: PYTHONPATH=tests python seeds.py"""

import json
from pathlib import Path

import numpy as np
import test_audio_models
from keras_builders import KerasLstm, sequential, write_by_position, write_h5
from onnx_builders import if_model, loop_model, plain_model, scan_model, written

import clstm

CORPUS = Path(__file__).with_name("corpus")


def folder(target):
    path = CORPUS / target
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_models(rng):
    models = {
        "lstm": clstm.LSTM(3, 4, seed=0),
        "variant": clstm.LSTM(
            2, 3, 2, bidirectional=True, proj_size=2, peepholes=True, activations=["relu"] * 3, seed=0
        ),
        "cell": clstm.LSTMCell(2, 3, seed=0),
        "sequential": clstm.Sequential(
            clstm.Embedding(3, 2, seed=0), clstm.LSTM(2, 2, seed=0), clstm.Linear(2, 1, seed=0)
        ),
    }
    for name, model in models.items():
        path = folder("safetensors") / name
        model.save(path, extra={"step": np.array(7)})
        (folder("config") / name).write_text(clstm.read_safetensors(path)[1]["config"])
    arrays = {f"rnn.{name}": array for name, array in models["lstm"].state_dict().items()}
    clstm.write_safetensors(folder("safetensors") / "prefix", arrays)


def write_onnx(rng):
    for make in plain_model, if_model, loop_model, scan_model:
        written(folder("onnx") / make.__name__, make(rng))
    clstm.to_onnx(clstm.LSTM(2, 3, 2, bidirectional=True, seed=0), folder("onnx") / "exported")
    variant = clstm.LSTM(2, 3, peepholes=True, clip=1.0, coupling="forget", activations=["hard_sigmoid"] * 3, seed=0)
    clstm.to_onnx(variant, folder("onnx") / "variant")


def write_keras(rng):
    small = KerasLstm(rng, units=2, features=2)
    masking = {"class_name": "Masking", "config": {"name": "masking", "mask_value": 0.0}}
    dense = {"class_name": "Dense", "config": {"name": "dense", "units": 1, "activation": "relu"}}
    both = {
        "class_name": "Bidirectional",
        "config": {"name": "both", "layer": small.layer("inner", return_sequences=True), "merge_mode": "concat"},
    }
    plain = sequential(masking, small.layer(), dense)
    write_h5(folder("keras") / "names.h5", plain, {"rnn": small.arrays})
    write_by_position(folder("keras") / "positions.h5", {"lstm": ("rnn", {"cell/vars": small.arrays})})
    stateful = small.layer(stateful=True, go_backwards=True, activation="elu", recurrent_activation="hard_sigmoid")
    for name, layers in {"plain": [small.layer()], "masked": plain["config"]["layers"], "both": [both],
                         "stateful": [stateful]}.items():  # fmt: skip
        (folder("keras_config") / name).write_text(json.dumps(sequential(*layers)))


def write_audio(rng):
    layers = test_audio_models.random_layers(rng, 1, 1, 1, True)
    kernel, bias = np.ones((1, 1)), np.zeros(1)
    contents = {
        "nam": {"nam": test_audio_models.nam_content(layers, np.ones(2), 1)},
        "rtneural": {
            "keras": test_audio_models.rtneural_content(layers, kernel, bias),
            "torch": {name: array.tolist() for name, array in clstm.LSTM(1, 1, seed=0).state_dict().items()},
        },
    }
    for target, files in contents.items():
        for name, content in files.items():
            (folder(target) / name).write_text(json.dumps(content))


def write_arguments(rng):
    for i in range(4):
        (folder("arguments") / f"bytes_{i}").write_bytes(rng.bytes(200))


for write in write_models, write_onnx, write_keras, write_audio, write_arguments:
    write(np.random.default_rng(0))

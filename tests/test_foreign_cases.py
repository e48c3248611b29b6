"""Vectors and models of other systems, through the public importers and the public API.

The data is not part of this project: CLSTM_SHARED, or a folder `shared` beside the project, holds it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import clstm

SHARED = Path(os.environ.get("CLSTM_SHARED") or Path(__file__).parents[2] / "shared")
CASES = SHARED / "data" / "cases"

if not CASES.is_dir():
    pytest.skip("the cases of other systems are not here: set CLSTM_SHARED to their folder", allow_module_level=True)


class Case:
    """One file: `inputs`, `expected` (recomputed in float64 where there is such a value), tolerances."""

    def __init__(self, path):
        with np.load(CASES / path, allow_pickle=False) as arrays:
            self.meta = json.loads(str(arrays["meta"]))
            self.inputs = {name[3:]: arrays[name] for name in arrays.files if name.startswith("in_")}
            self.given = {name[4:]: arrays[name] for name in arrays.files if name.startswith("out_")}
        self.attrs = self.meta["attrs"]

    def assert_close(self, **found):
        """Compare results by name: with the source's own tolerance, or with 4 times its error where that is known."""
        for name, array in found.items():
            np.testing.assert_allclose(
                array, self.given[name], rtol=self.meta["rtol"], atol=self.meta["atol"], err_msg=name
            )
            error = self.meta.get("err_source_vs_ref64")
            error = error.get(name) if isinstance(error, dict) else error
            exact = self.given.get(f"ref64_{name}")
            if error is not None and exact is not None:
                assert np.abs(array - exact).max() <= max(4 * error, 4e-7 * np.abs(exact).max()), name


# ---- audio ----


def test_nam():
    case = Case("4_models/nam/nam_lstm.npz")
    model = clstm.from_nam(CASES / "4_models/nam/lstm.nam")
    case.assert_close(model_output=model.process(case.inputs["x"][:, 0])[:, :, None])


def test_nam_without_its_trained_state_is_another_model():
    case = Case("4_models/nam/nam_lstm.npz")
    model = clstm.from_nam(CASES / "4_models/nam/lstm.nam")
    stateless = clstm.AudioModel(model.parts).process(case.inputs["x"][:, 0])
    assert np.abs(stateless - case.given["model_output"][:, :, 0]).max() > 1e-2


@pytest.mark.parametrize("name", ["keras_lstm", "keras_lstm_1d", "lstm_torch"])
def test_rtneural(name):
    case = Case(f"4_models/rtneural/rtneural_{name}.npz")
    model = clstm.from_rtneural(CASES / f"4_models/rtneural/{name.removeprefix('keras_')}.json")
    expected = case.given["model_output"]
    case.assert_close(model_output=model.process(case.inputs["x"].reshape(-1)).reshape(expected.shape))


# ---- ONNX ----


def run_onnx(path, case, names=None):
    """Outputs of a model for the inputs of a case that it takes."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    model = clstm.from_onnx(CASES / path)
    return model({name: case.inputs[name] for name in model.inputs})


# Their LSTMs have what the core lacks so far.
PENDING = {"test_lstm_with_peepholes", "act_relu", "clip_0.5", "rev_P"}


def names_of(pattern):
    pending = pytest.mark.xfail(raises=NotImplementedError, reason="a variant that the core lacks so far")
    stems = sorted(path.stem for path in CASES.glob(pattern))
    return [pytest.param(stem, marks=pending) if stem in PENDING else stem for stem in stems]


@pytest.mark.parametrize("name", names_of("1_onnx_node/*.onnx"))
def test_onnx_node(name):
    case = Case(f"1_onnx_node/{name}.npz")
    case.assert_close(**run_onnx(f"1_onnx_node/{name}.onnx", case))


@pytest.mark.parametrize("name", names_of("6_generated/onnx/*.onnx"))
def test_onnx_generated(name):
    case = Case(f"6_generated/onnx/{name}.npz")
    found = run_onnx(f"6_generated/onnx/{name}.onnx", case)
    case.assert_close(**found)
    others = case.meta["err_vs_onnxruntime"] or case.meta["err_vs_onnx_reference"]
    for key, array in found.items():
        assert np.abs(array - case.given[key]).max() <= 4 * others, key


@pytest.mark.parametrize("path", sorted(CASES.glob("6_generated/torch_onnx_export/*.onnx")), ids=lambda path: path.stem)
def test_torch_export(path):
    case = Case(f"6_generated/torch_onnx_export/{path.stem.rpartition('_')[0]}.npz")
    case.assert_close(**run_onnx(path, case))


def test_silero_vad_v3():
    """Two trained LSTMs inside a large graph; their state is carried from chunk to chunk."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    case = Case("4_models/silero_vad_v3/silero_v3_lstm2.npz")
    first, second = clstm.from_onnx(CASES / "4_models/silero_vad_v3/silero_vad_v3_1.onnx").lstms.values()
    states, y = [None, None], []
    for i, x in enumerate(case.inputs["x"]):
        x, states[0] = first(x, states[0])
        x, states[1] = second(x, states[1])
        y.append(x)
        h_n, c_n = (np.concatenate(arrays) for arrays in zip(*states, strict=True))
        np.testing.assert_allclose(h_n, case.given["h_n"][i], rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(c_n, case.given["c_n"][i], rtol=1e-5, atol=2e-4)  # |c| goes beyond 100
    case.assert_close(y=np.stack(y))


@pytest.mark.parametrize("samples", [512, 1536, 4000])
def test_silero_vad_v3_end_to_end(samples):
    """Audio in, probability out: ONNX Runtime's numbers."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    path = CASES / "4_models/silero_vad_v3/silero_vad_v3_1.onnx"
    speech = Case("4_models/nam/nam_lstm.npz").inputs["x"][4096:, :, 0].reshape(1, -1)[:, :samples]
    rng = np.random.default_rng(0)
    h0, c0 = (rng.standard_normal((2, 1, 64)).astype(np.float32) for _ in "hc")
    inputs = {"input": speech, "h0": h0, "c0": c0}
    session = runtime.InferenceSession(str(path))
    for found, expected in zip(clstm.from_onnx(path)(inputs).values(), session.run(None, inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-5)

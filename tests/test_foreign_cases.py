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

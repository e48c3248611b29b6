"""Vectors and models of other systems. Tests that need them are skipped where they are absent.

The data is not part of this project: CLSTM_SHARED, or a folder `shared` beside the project, holds it.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(os.environ.get("CLSTM_SHARED") or Path(__file__).parents[2] / "shared")
CASES = SHARED / "data" / "cases"

if not CASES.is_dir():
    pytest.skip("the cases of other systems are not here: set CLSTM_SHARED to their folder", allow_module_level=True)


class Case:
    """One file: `attrs`, `inputs`, and the results as `given`, under "ref64_" recomputed in float64 where they are."""

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

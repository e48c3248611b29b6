"""Pictures: they show the numbers that they are given."""

import subprocess
import sys

import numpy as np
import pytest

import clstm

X = np.random.default_rng(0).standard_normal((12, 3, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_gates_shows_the_values_of_the_trace_by_memory():
    lstm = clstm.LSTM(2, 5, bidirectional=True, seed=0)
    trace = lstm.trace(X)
    figure = clstm.plot.gates(trace, "l0_reverse", row=1)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    order = np.argsort(-trace["f_l0_reverse"][:, 1].mean(axis=0), kind="stable")
    assert len(panels) == 5
    for kind, axes in zip("ifgoc", panels, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), trace[f"{kind}_l0_reverse"][:, 1][:, order].T)


def test_gates_labels_steps_and_chooses_units(tmp_path):
    figure = clstm.plot.gates(clstm.LSTM(2, 40, seed=0).trace(X[:, 0]), units=7, labels="twelve steps")
    assert figure.axes[0].images[0].get_array().shape == (7, 12)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("twelve␣steps")
    figure.savefig(tmp_path / "gates.png")
    assert (tmp_path / "gates.png").read_bytes()[:4] == b"\x89PNG"


def test_gates_refuses_what_does_not_fit():
    trace = clstm.LSTM(2, 4, seed=0).trace(X)
    with pytest.raises(ValueError, match="labels has 2 entries, but trace has 12 steps"):
        clstm.plot.gates(trace, labels="ab")
    for options, message in [
        ({"name": "l7"}, "name is 'l7', but trace has l0$"),
        ({"row": 3}, "row is 3, but trace has 3 rows"),
        ({"row": -1}, "row is -1, but at least 0 is expected"),
        ({"units": 0}, "units is 0, but at least 1 is expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            clstm.plot.gates(trace, **options)
    with pytest.raises(ValueError, match="trace has no steps"):
        clstm.plot.gates(clstm.LSTM(2, 4).trace(X[:0]))
    with pytest.raises(ValueError, match="row is 1, but trace has 1 rows"):
        clstm.plot.gates(clstm.LSTM(2, 4).trace(X[:, 0]), row=1)


def test_gradient_flow_shows_the_geometric_mean_relative_to_the_last_step():
    reach = {"one": np.array([[1.0, 2.0], [0.1, 0.8]]), "two": np.array([[4.0], [1.0]])}
    axes = clstm.plot.gradient_flow(reach).axes[0]
    one, two = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(one, [1, 0.2])
    np.testing.assert_allclose(two, [1, 0.25])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]


def test_gradient_flow_draws_any_number_of_networks_of_one_sample_or_many():
    reach = {str(i): np.ones((3, 2)) for i in range(5)} | {"last": np.array([1.0, 0.5, 0.25])}
    lines = clstm.plot.gradient_flow(reach).axes[0].lines
    np.testing.assert_allclose(lines[-1].get_ydata(), reach["last"])
    assert len(lines) == 6


@pytest.mark.filterwarnings("error")
def test_gradient_flow_draws_nothing_where_the_gradient_is_0(tmp_path):
    reach = {"gone": np.array([[1.0, 1.0], [0.5, 0.0], [0.0, 0.0]]), "none": np.zeros((3, 2))}
    figure = clstm.plot.gradient_flow(reach)
    figure.savefig(tmp_path / "flow.png")
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1, np.nan, np.nan])


def test_losses_need_a_step_each():
    for training in ([], [1.0]):
        with pytest.raises(ValueError, match=f"training has {len(training)} losses, but one for each of the 2 steps"):
            clstm.plot.losses([1, 2], training, {}, {})
    with pytest.raises(ValueError, match="training has 0 losses, .* and at least one"):
        clstm.plot.losses([], [], {}, {})


def test_without_matplotlib_the_message_names_the_extra():
    code = """
import sys
sys.modules["matplotlib"] = None
import clstm
try:
    clstm.plot.gradient_flow({})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("clstm.plot needs matplotlib, of the extra cli: pip install '.[cli]'")

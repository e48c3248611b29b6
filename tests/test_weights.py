"""Whatever way a weight is changed, the next call, training step and step of a stream use it."""

import numpy as np
import pytest
from problems import Problem, assert_same_bytes

import clstm

PROBLEM = Problem(5, 9, 2, T=6, B=3)
NAMES = list(PROBLEM.lstm().parameters())


def in_place(lstm, name, value):
    getattr(lstm, name)[...] = value


def attribute(lstm, name, value):
    setattr(lstm, name, value)


def attribute_of_list(lstm, name, value):
    setattr(lstm, name, value.tolist())


def through_parameters(lstm, name, value):
    lstm.parameters()[name][...] = value


def augmented_assignment(lstm, name, value):
    array = getattr(lstm, name)
    array += value - array
    array[...] = value


def augmented_assignment_of_attribute(lstm, name, value):
    in_place(lstm, name, 0)
    exec(f"lstm.{name} += value")


def one_row_at_a_time(lstm, name, value):
    for row, new in zip(np.atleast_2d(getattr(lstm, name)), np.atleast_2d(value), strict=True):
        row[...] = new


def slices(lstm, name, value):
    getattr(lstm, name)[::2] = value[::2]
    getattr(lstm, name)[1::2] = value[1::2]


def transposed_view(lstm, name, value):
    getattr(lstm, name).T[...] = value.T


def flat_view(lstm, name, value):
    getattr(lstm, name).reshape(-1)[:] = value.ravel()


def memory_view(lstm, name, value):
    memoryview(getattr(lstm, name)).cast("B")[:] = value.tobytes()


def copy_to(lstm, name, value):
    np.copyto(lstm.parameters()[name], value)


def state_dict(lstm, name, value):
    lstm.load_state_dict(lstm.state_dict() | {name: value})


def optimizer(lstm, name, value):
    old = lstm.state_dict()
    zeros = {other: np.zeros_like(array) for other, array in old.items()}
    clstm.SGD(lstm, lr=1.0).step(zeros | {name: old[name] - value})
    in_place(lstm, name, value)  # rounding


WAYS = [
    in_place,
    attribute,
    attribute_of_list,
    through_parameters,
    augmented_assignment,
    augmented_assignment_of_attribute,
    one_row_at_a_time,
    slices,
    transposed_view,
    flat_view,
    memory_view,
    copy_to,
    state_dict,
    optimizer,
]


def fresh_copy(lstm):
    fresh = clstm.LSTM(**lstm.config())
    fresh.load_state_dict(lstm.state_dict())
    return fresh


def assert_current(lstm, stream):
    """Call, training step and stream use the weights that the parameters show."""
    batch = PROBLEM.batch()
    stream.reset()
    step = stream.step(batch.x[0])
    found = [network_results(lstm, batch), network_results(lstm, batch)]
    for results in found:  # only now, because reading the parameters makes views, which the network notices
        assert_same_bytes(results, network_results(fresh_copy(lstm), batch))
    assert_same_bytes(step, found[0]["y"][0])


def network_results(lstm, batch):
    y, _ = lstm(batch.x)
    trained_y, _, tape = lstm.forward(batch.x)
    return {"y": y, "trained_y": trained_y} | lstm.backward(tape, batch.dy)[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", WAYS)
def test_a_changed_weight_is_used(change, name):
    lstm = PROBLEM.lstm()
    stream = lstm.stream(PROBLEM.B)
    assert_current(lstm, stream)
    before, _ = lstm(PROBLEM.batch().x)
    value = (lstm.state_dict()[name] + 0.25).astype(np.float32)
    change(lstm, name, value)
    assert_same_bytes(lstm.state_dict()[name], value)
    assert_current(lstm, stream)
    assert not np.array_equal(lstm(PROBLEM.batch().x)[0], before)


@pytest.mark.parametrize(
    "held",
    [
        lambda lstm: lstm.weight_hh_l1,
        lambda lstm: lstm.parameters(),
        lambda lstm: lstm.weight_hh_l1[3:7, ::2],
        lambda lstm: lstm.weight_hh_l1.T[1],
        lambda lstm: memoryview(lstm.weight_hh_l1),
        lambda lstm: np.frombuffer(lstm.weight_hh_l1, np.float32),
        lambda lstm: iter(lstm.weight_hh_l1),
        lambda lstm: lstm.weight_hh_l1.flat,
    ],
)
def test_a_held_view_is_always_live(held):
    lstm = PROBLEM.lstm()
    view, stream = held(lstm), lstm.stream(PROBLEM.B)
    for turn in range(4):
        assert_current(lstm, stream)
        before = lstm.state_dict()["weight_hh_l1"]
        if isinstance(view, dict):
            view["weight_hh_l1"][...] += 1
        elif isinstance(view, memoryview):
            view[turn, turn] += 1.0
        elif isinstance(view, np.ndarray):
            view[...] += 1
        elif isinstance(view, np.flatiter):
            view[turn] = 7
        else:
            next(view)[...] = turn
        assert not np.array_equal(lstm.state_dict()["weight_hh_l1"], before)
        assert_current(lstm, stream)


@pytest.mark.parametrize("call", ["call", "forward", "step"])
def test_a_view_that_was_written_between_calls_and_dropped(call):
    lstm, batch = PROBLEM.lstm(), PROBLEM.batch()
    stream = lstm.stream(PROBLEM.B)
    calls = {
        "call": lambda: lstm(batch.x),
        "forward": lambda: lstm.forward(batch.x),
        "step": lambda: stream.step(batch.x[0]),
    }
    calls[call]()
    view = lstm.weight_hh_l1
    calls[call]()
    view[...] += 1
    del view
    assert_current(lstm, stream)


def test_a_view_that_outlives_the_network_stays_valid():
    lstm = PROBLEM.lstm()
    values, view = lstm.state_dict()["weight_hh_l0"], lstm.weight_hh_l0
    del lstm
    others = [PROBLEM.lstm() for _ in range(20)]
    assert_same_bytes(view, values)
    view[...] = 0
    del others


def test_views_of_one_parameter_share_memory():
    lstm = PROBLEM.lstm()
    assert np.shares_memory(lstm.weight_hh_l0, lstm.parameters()["weight_hh_l0"])
    assert lstm.weight_hh_l0.flags.writeable and lstm.weight_hh_l0.flags.c_contiguous
    assert not np.shares_memory(lstm.weight_hh_l0, lstm.state_dict()["weight_hh_l0"])


def test_training_moves_the_weights_that_calls_use():
    lstm, batch = PROBLEM.lstm(), PROBLEM.batch()
    stream, adam = lstm.stream(PROBLEM.B), clstm.Adam(lstm, lr=0.01)
    for _ in range(3):
        y, _, tape = lstm.forward(batch.x)
        _, _, grads = lstm.backward(tape, y)
        before = lstm.state_dict()
        adam.step(grads)
        assert all(not np.array_equal(before[name], array) for name, array in lstm.state_dict().items())
        assert_current(lstm, stream)


def test_assignment_is_checked_and_changes_nothing_on_an_error():
    lstm = PROBLEM.lstm()
    before = lstm.state_dict()
    with pytest.raises(ValueError, match=r"'weight_ih_l0' has shape \(9, 5\), but \(36, 5\) is expected"):
        lstm.weight_ih_l0 = np.zeros((9, 5))
    with pytest.raises(TypeError, match="'bias_hh_l1' has dtype complex128, but real numbers are expected"):
        lstm.bias_hh_l1 = np.zeros(36, complex)
    with pytest.raises(ValueError, match="missing 'weight_ih_l0'"):
        lstm.load_state_dict({"bias_hh_l1": np.zeros(36)})
    assert_same_bytes(lstm.state_dict(), before)


def test_attributes_of_parameters_are_listed_and_others_are_missing():
    lstm = PROBLEM.lstm()
    assert set(NAMES) <= set(dir(lstm))
    assert list(lstm.state_dict()) == NAMES
    for name in ("weight_ih_l2", "weight_ih_l0_reverse", "bias_ih", "no_such_thing"):
        with pytest.raises(AttributeError, match=f"'LSTM' object has no attribute '{name}'"):
            getattr(lstm, name)


def test_names_and_shapes_are_those_of_pytorch():
    lstm = clstm.LSTM(5, 9, 2, bidirectional=True)
    shapes = {name: array.shape for name, array in lstm.parameters().items()}
    assert list(shapes.items())[:8] == [
        ("weight_ih_l0", (36, 5)),
        ("weight_hh_l0", (36, 9)),
        ("bias_ih_l0", (36,)),
        ("bias_hh_l0", (36,)),
        ("weight_ih_l0_reverse", (36, 5)),
        ("weight_hh_l0_reverse", (36, 9)),
        ("bias_ih_l0_reverse", (36,)),
        ("bias_hh_l0_reverse", (36,)),
    ]
    assert shapes["weight_ih_l1"] == shapes["weight_ih_l1_reverse"] == (36, 18)
    assert not any("bias" in name for name in clstm.LSTM(5, 9, 2, bias=False, bidirectional=True).parameters())

"""What goes in: every kind of array, and every kind of mistake."""

import ctypes
import ctypes.util
import platform
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from problems import Problem, assert_same_bytes, called, named, outputs

import clstm
from clstm import _core

# ---- kinds of arrays ----


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


def every_second_feature(x):
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def record_field(x):
    records = np.zeros(x.shape, [("flag", "i2"), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


def reversed_axes(x):
    return np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]


def part_of_larger(x):
    larger = np.full(np.array(x.shape) + 3, np.nan, x.dtype)
    larger[1:-2, 2:-1, 1:-2] = x
    return larger[1:-2, 2:-1, 1:-2]


LAYOUTS = [
    np.asfortranarray,
    every_second_feature,
    reversed_axes,
    part_of_larger,
    unaligned,
    record_field,
    lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    lambda x: x.byteswap().view(x.dtype.newbyteorder()),
    lambda x: x.astype(np.float64),
    lambda x: x.astype(np.longdouble),
    np.ndarray.tolist,
    lambda x: [list(step) for step in x],
    lambda x: memoryview(x),
    lambda x: np.ma.masked_array(x),
    lambda x: x.view(type("Subclass", (np.ndarray,), {})),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_any_layout_gives_the_same_results(layout, with_lengths):
    problem = Problem(5, 7, 2, T=6, B=4, with_lengths=with_lengths)
    lstm, batch = problem.lstm(), problem.batch()
    x = layout(batch.x.copy())
    expected = outputs(lstm, batch)
    found = outputs(lstm, batch._replace(x=x))
    assert_same_bytes(found, expected)
    assert type(found["y"]) is type(found["dx"]) is np.ndarray


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int64", "uint64", "bool", "float64", ">f4", ">i2"])
def test_other_real_types_are_converted(dtype):
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.random.default_rng(0).integers(0, 2, (5, 2, 3)).astype(dtype)
    y, _ = lstm(x)
    assert y.dtype == np.float32
    assert_same_bytes(y, lstm(x.astype(np.float32))[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_computation_and_results_are_of_the_dtype_of_the_network(dtype):
    lstm = clstm.LSTM(3, 4, dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    found = named(*lstm(x.astype(np.float32)))
    assert {array.dtype.name for array in found.values()} == {dtype}
    assert_same_bytes(found, named(*lstm(x.astype(np.float32).astype(np.float64))))
    same = np.array_equal(lstm(x)[0], lstm(x.astype(np.float32))[0])
    assert same == (dtype == "float32")  # a float64 network sees all digits


@pytest.mark.parametrize("shape", [(1, 1, 5), (6, 1, 5), (1, 4, 5), (6, 4, 1), (1, 1, 1)])
def test_broadcast_arrays(shape):
    lstm = clstm.LSTM(5, 7, 2, seed=0)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    broadcast = np.broadcast_to(x, (6, 4, 5))
    assert_same_bytes(named(*lstm(broadcast)), named(*lstm(broadcast.copy())))
    y, _, tape = lstm.forward(broadcast)
    full, _, full_tape = lstm.forward(broadcast.copy())
    assert_same_bytes(lstm.backward(tape, y)[2], lstm.backward(full_tape, full)[2])


def test_memory_mapped_arrays(tmp_path):
    problem = Problem(5, 7, T=6, B=4)
    lstm, batch = problem.lstm(), problem.batch()
    np.save(tmp_path / "x.npy", batch.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same_bytes(called(lstm, batch._replace(x=mapped)), called(lstm, batch))
    assert type(lstm(mapped)[0]) is np.ndarray


def test_strides_beyond_32_bits(tmp_path):
    """Steps 24 GiB apart in a sparse file: nothing is read between them."""
    lstm = clstm.LSTM(5, 7, seed=0)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(3 * 6 * 2**32 + 4096)
    mapped = np.memmap(tmp_path / "sparse", np.float32, "r+")
    x = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)
    far = np.lib.stride_tricks.as_strided(mapped, x.shape, (6 * 2**32, 20, 4))
    far[...] = x
    assert_same_bytes(named(*lstm(far)), named(*lstm(x)))
    assert_same_bytes(named(*lstm(far[::-1])), named(*lstm(x[::-1])))


def test_inputs_are_never_written_to():
    problem = Problem(5, 7, 2, bidirectional=True, T=6, B=4, with_lengths=True)
    lstm, batch = problem.lstm(dropout=0.5), problem.batch()
    arrays = [batch.x, *batch.state, batch.lengths, batch.dy, *batch.dstate]
    kept = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    lstm(batch.x, batch.state, batch.lengths)
    _, _, tape = lstm.forward(batch.x, batch.state, batch.lengths)
    lstm.backward(tape, batch.dy, batch.dstate)
    for array, expected in zip(arrays, kept, strict=True):
        assert_same_bytes(array, expected)


# ---- memory ----


def peak_of(call):
    """The most bytes that a call had allocated at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: x[::-1],
        lambda x: x[:, ::2],
        lambda x: x[:, :, 10:],
        lambda x: x.swapaxes(0, 1),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
    ],
)
def test_arrays_with_contiguous_features_are_not_copied(layout, dtype):
    x = layout(np.zeros((500, 100, 100), dtype))  # 10 to 40 MB
    lstm = clstm.LSTM(x.shape[-1], 1, dtype=dtype)
    lstm(x)
    assert peak_of(lambda: lstm(x)) < 2_000_000
    x = x.copy("F")
    assert peak_of(lambda: lstm(x)) > 9_000_000  # the measure sees a copy


def test_inference_needs_memory_for_the_output_only():
    lstm = clstm.LSTM(8, 64, num_layers=1)
    x = np.zeros((2000, 16, 8), np.float32)
    output = 2000 * 16 * 64 * 4
    assert peak_of(lambda: lstm(x)) < 1.2 * output
    assert peak_of(lambda: lstm.forward(x)) > 5 * output  # the tape holds gates and cells


# ---- mistakes ----


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((5, 2, 7)), ValueError, "x has 7 features, but input_size is 5"),
        (np.zeros((5, 2, 0)), ValueError, "x has 0 features, but input_size is 5"),
        (np.zeros((2, 4)), ValueError, "x has 4 features, but input_size is 5"),
        (np.zeros(5), ValueError, r"x has shape \(5,\), but \(time, batch, 5\) or \(time, 5\) is expected"),
        (3.0, ValueError, r"x has shape \(\), but \(time, batch, 5\) or \(time, 5\) is expected"),
        ([], ValueError, r"x has shape \(0,\), but \(time, batch, 5\) or \(time, 5\) is expected"),
        (np.zeros((1, 2, 3, 5)), ValueError, r"x has shape \(1, 2, 3, 5\), but \(time, batch, 5\) or \(time, 5\) is"),
        (np.zeros((2, 5), complex), TypeError, "x has dtype complex128, but real numbers are expected"),
        (np.zeros((2, 5), object), TypeError, "x has dtype object, but real numbers are expected"),
        (np.zeros((2, 5), "M8[s]"), TypeError, r"x has dtype datetime64\[s\], but real numbers are expected"),
        ([["a"] * 5], TypeError, "x has dtype <U1, but real numbers are expected"),
        (None, TypeError, "x is None, but an array is expected"),
        ([[1.0, 2.0], [3.0]], ValueError, "x .*inhomogeneous"),
        (np.ma.masked_array(np.zeros((2, 5)), True), (TypeError, ValueError), "x .*mask"),
    ],
)
def test_wrong_inputs_are_refused(x, error, message):
    lstm = clstm.LSTM(5, 8)
    before = lstm.state_dict()
    for call in (lstm, lstm.forward):
        with pytest.raises(error, match=message):
            call(x)
    assert_same_bytes(lstm.state_dict(), before)


def test_batch_first_is_named_in_the_message():
    with pytest.raises(ValueError, match=r"x has shape \(5,\), but \(batch, time, 5\) or \(time, 5\) is expected"):
        clstm.LSTM(5, 8, batch_first=True)(np.zeros(5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size is 0, but at least 1 is expected"),
        ({"input_size": -3}, ValueError, "input_size is -3, but at least 1 is expected"),
        ({"hidden_size": 0}, ValueError, "hidden_size is 0, but at least 1 is expected"),
        ({"num_layers": 0}, ValueError, "num_layers is 0, but at least 1 is expected"),
        ({"input_size": 2.0}, TypeError, "input_size is 2.0, but an integer is expected"),
        ({"hidden_size": "8"}, TypeError, "hidden_size is '8', but an integer is expected"),
        ({"num_layers": True}, TypeError, "num_layers is True, but an integer is expected"),
        ({"hidden_size": None}, TypeError, "hidden_size is None, but an integer is expected"),
        ({"bias": 1}, TypeError, "bias is 1, but True or False is expected"),
        ({"batch_first": "yes"}, TypeError, "batch_first is 'yes', but True or False is expected"),
        ({"bidirectional": None}, TypeError, "bidirectional is None, but True or False is expected"),
        ({"dropout": 1.5}, ValueError, "dropout is 1.5, but a number from 0 to 1 is expected"),
        ({"dropout": -0.1}, ValueError, "dropout is -0.1, but a number from 0 to 1 is expected"),
        ({"dropout": float("nan")}, ValueError, "dropout is nan, but a number from 0 to 1 is expected"),
        ({"dropout": True}, TypeError, "dropout is True, but a number from 0 to 1 is expected"),
        ({"dropout": "0.5"}, TypeError, "dropout is '0.5', but a number from 0 to 1 is expected"),
        ({"dtype": "float16"}, ValueError, "dtype is 'float16', but 'float32' or 'float64' is expected"),
        ({"dtype": int}, ValueError, "dtype is <class 'int'>, but 'float32' or 'float64' is expected"),
        ({"dtype": None}, ValueError, "dtype is None, but 'float32' or 'float64' is expected"),
        ({"init": "zeros"}, ValueError, "init is 'zeros', but one of 'default', 'pytorch' is expected"),
        ({"init": ["default"]}, (TypeError, ValueError), "init is"),
        ({"seed": -1}, ValueError, r"seed is -1, but 0 to 2\*\*64 - 1 is expected"),
        ({"seed": 2**64}, ValueError, r"seed is 18446744073709551616, but 0 to 2\*\*64 - 1 is expected"),
        ({"seed": 1.5}, TypeError, "seed is 1.5, but an integer or None is expected"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        clstm.LSTM(**{"input_size": 2, "hidden_size": 3} | arguments)


@pytest.mark.parametrize(
    "sizes",
    [
        (2**62, 2**62),
        (2**31, 2**31),
        (1, 2**61),
        (2**61, 1),
        (2**63, 1),
        (1, 2**70),
        (1, 1, 2**61),
        (2**20, 2**20, 2**20),
        (3, 2**32),
    ],
)
def test_sizes_that_fit_no_memory_are_refused(sizes):
    """In a process of its own, because the failure to refuse them takes all memory or for ever."""
    code = f"""
import clstm, resource
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
try:
    clstm.LSTM{sizes}
except (MemoryError, ValueError, OverflowError) as error:
    print(type(error).__name__, error)
"""
    if sys.platform == "win32":
        code = code.replace("resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))", "").replace(", resource", "")
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert "size" in printed.stdout or "num_layers" in printed.stdout or "bytes" in printed.stdout


def test_calls_that_fit_no_memory_are_refused_and_the_next_works():
    lstm = clstm.LSTM(1, 8, seed=0)
    expected, _ = lstm(np.ones((3, 1)))
    endless = np.broadcast_to(np.float32(1), (2**45, 1, 1))
    for call in (lstm, lstm.forward):
        with pytest.raises(MemoryError):
            call(endless)
    assert_same_bytes(lstm(np.ones((3, 1)))[0], expected)


@pytest.mark.parametrize(
    "name", ["input_size", "hidden_size", "num_layers", "bidirectional", "bias", "dtype", "dropout"]
)
def test_what_the_network_is_built_of_cannot_change_afterwards(name):
    lstm = clstm.LSTM(2, 3)
    with pytest.raises(AttributeError, match=name):
        setattr(lstm, name, getattr(clstm.LSTM(4, 5, 2, bidirectional=True, bias=False, dropout=0.5), name))


# ---- special numbers ----


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_stay_in_their_row_and_do_not_reach_back(value, dtype):
    problem = Problem(3, 9, 2, dtype=dtype, T=8, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    batch.x[4, 2, 1] = value
    found = outputs(lstm, batch)
    others = [0, 1, 3, 4]
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        assert_same_bytes(found[name][:, others], expected[name][:, others])
    assert_same_bytes(found["y"][:4, 2], expected["y"][:4, 2])
    if np.isnan(value):
        assert np.isnan(found["y"][4:, 2]).all()
        assert np.isnan(found["dx"][:, 2]).all()
        assert all(np.isnan(found[name]).any() for name in lstm.parameters())
    else:
        assert np.isfinite(found["y"]).all()  # the gates are saturated
        assert not np.array_equal(found["y"][4:, 2], expected["y"][4:, 2])


def test_nan_in_a_state_or_in_a_gradient_stays_in_its_row():
    problem = Problem(3, 9, 2, bidirectional=True, T=6, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    batch.state[1][0, 1, 3] = np.nan
    batch.dy[2, 3, 0] = np.nan
    found = outputs(lstm, batch)
    for name in ("y", "h_n", "c_n"):
        assert_same_bytes(found[name][:, [0, 2, 3, 4]], expected[name][:, [0, 2, 3, 4]])
        assert np.isnan(found[name][:, 1]).any()
    for name in ("dx", "dh_0", "dc_0"):
        assert_same_bytes(found[name][:, [0, 2, 4]], expected[name][:, [0, 2, 4]])
        assert np.isnan(found[name][:, 3]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_denormal_numbers_count_as_zero(dtype):
    problem = Problem(5, 9, 2, dtype=dtype, T=6, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    denormal = np.finfo(dtype).smallest_normal / 4
    assert denormal > 0
    tiny = batch._replace(
        x=np.full_like(batch.x, denormal), state=tuple(np.full_like(a, denormal) for a in batch.state)
    )
    zero = batch._replace(x=np.zeros_like(batch.x), state=None)
    assert_same_bytes(called(lstm, tiny), called(lstm, zero))
    silent = clstm.LSTM(5, 9, 2, bias=False, dtype=dtype, seed=0)
    small = np.full_like(batch.x, np.finfo(dtype).smallest_normal * 2)
    y, (h_n, c_n) = silent(small)
    for array in (y, h_n, c_n):
        assert not np.any((array != 0) & (np.abs(array) < np.finfo(dtype).smallest_normal))
    _, _, tape = lstm.forward(batch.x)
    dx, _, grads = lstm.backward(tape, np.full_like(batch.dy, denormal))
    assert not dx.any() and not any(array.any() for array in grads.values())


def denormals_work():
    return np.float32(1e-30) * np.float32(1e-10) > 0 and np.float32(1e-42) * np.float32(1) > 0


def test_the_floating_point_mode_of_the_caller_is_restored():
    problem = Problem(17, 65, 2, T=20, B=33)  # threads share it
    lstm, batch = problem.lstm(), problem.batch()
    assert denormals_work()
    outputs(lstm, batch)
    assert denormals_work()
    lstm.stream(33).step(batch.x[0])
    assert denormals_work()
    _core.apply(0, batch.x)
    assert denormals_work()
    with pytest.raises(ValueError, match="x has"):
        lstm(batch.x[:, :, :3])
    assert denormals_work()


FE_UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the rounding mode as Linux's C library does")
@pytest.mark.skipif(platform.machine() not in FE_UPWARD, reason="needs the number of FE_UPWARD on this processor")
def test_results_do_not_depend_on_the_rounding_mode_of_the_caller():
    upward = FE_UPWARD[platform.machine()]
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    problem = Problem(17, 65, 2, T=20, B=33)  # threads share it
    batch, first, second = problem.batch(), problem.lstm(), problem.lstm()
    expected = outputs(first, batch)
    before = libm.fegetround()
    try:
        assert libm.fesetround(upward) == 0
        found = outputs(second, batch)
        assert libm.fegetround() == upward
    finally:
        libm.fesetround(before)
    assert_same_bytes(found, expected)


@pytest.mark.parametrize("kernel", ["portable", None])
def test_warnings_and_floating_point_flags_are_left_alone(kernel):
    if kernel:
        _core.set_isa(kernel)
    problem = Problem(3, 5)
    lstm, batch = problem.lstm(), problem.batch()
    with np.errstate(all="raise"):
        batch.x[0] = np.nan
        batch.x[1] = 1e38
        outputs(lstm, batch)
        assert (np.ones(3, np.float32) + 1).tolist() == [2, 2, 2]


def test_batch_first_may_be_set_later():
    lstm = clstm.LSTM(3, 4, seed=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    y = lstm(x)[0]
    lstm.batch_first = True
    assert np.array_equal(lstm(x.swapaxes(0, 1))[0], y.swapaxes(0, 1))
    with pytest.raises(TypeError, match="batch_first is 1, but True or False is expected"):
        lstm.batch_first = 1
    assert lstm(x.swapaxes(0, 1))[0].shape == (2, 5, 4)

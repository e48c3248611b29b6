"""Objects come and go: what is dropped is freed at once, whoever holds what, in whatever order it goes."""

import copy
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

import clstm
from clstm import _core, large_pages


class Holder:
    """Something in a reference cycle, which only the garbage collector can free."""

    def __init__(self):
        self.me = self


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_bytes_in_use():
    """Without what malloc has back but keeps."""
    with suppress(AttributeError):  # a C library that is not GNU's
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
def test_dropped_models_are_freed_without_the_garbage_collector():
    x = np.ones((4, 2, 64), np.float32)

    def use():
        lstm = clstm.LSTM(64, 256, init="pytorch")
        y, _, tape = lstm.forward(x)
        lstm.backward(tape, y)

    use()
    gc.collect()
    gc.disable()
    try:
        before = resident_bytes()
        for _ in range(20):
            use()
        assert resident_bytes() - before < 20e6
    finally:
        gc.enable()


def test_a_view_in_a_garbage_cycle_is_released_safely():
    address = id(None)
    around = (ctypes.c_char * 256).from_address(address + 16)  # what lies behind None must not change
    before = bytes(around)
    for _ in range(20):
        lstm, holder = clstm.LSTM(5, 7), Holder()
        holder.view = lstm.weight_ih_l0.base
        del holder, lstm
        gc.collect()
    assert bytes(around) == before


def test_garbage_cycles_of_any_order_are_freed_silently():
    code = """
import gc, itertools, numpy as np, clstm
class Holder: pass
for order in itertools.permutations(["lstm", "tape", "view", "stream"]):
    lstm, holder = clstm.LSTM(5, 7), Holder()
    made = dict(lstm=lstm, tape=lstm.forward(np.ones((2, 5)))[2], view=lstm.weight_ih_l0, stream=lstm.stream())
    holder.me = holder
    for name in order:
        setattr(holder, name, made[name])
    del lstm, holder, made
    gc.collect()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_tapes_views_and_streams_outlive_their_model():
    lstm = clstm.LSTM(5, 7, seed=0)
    x = np.ones((3, 5), np.float32)
    y, _, tape = lstm.forward(x)
    view, stream = lstm.weight_hh_l0, lstm.stream()
    kept = view.copy()
    del lstm
    gc.collect()
    assert np.array_equal(view, kept)
    assert np.array_equal(stream.step(x[0]), y[0])
    assert tape.T == 3


def test_copies_of_a_stream_share_no_state():
    stream = clstm.LSTM(3, 4, seed=0).stream()
    stream.step(np.ones(3))
    for duplicate in (copy.copy, copy.deepcopy):
        copied = duplicate(stream)
        before = copied.state
        assert np.array_equal(before[0], stream.state[0])
        stream.step(np.ones(3))
        assert np.array_equal(copied.state[0], before[0])
    with pytest.raises(TypeError, match="a Stream cannot be pickled"):
        pickle.dumps(stream)


class Annotated(clstm.LSTM):
    def __init__(self, hidden_size):
        super().__init__(3, hidden_size, seed=0)
        self.note = ["kept"]

    def config(self):
        return {"hidden_size": self.hidden_size}

    @staticmethod
    def parameter_shapes(hidden_size, **_):
        return clstm.LSTM.parameter_shapes(3, hidden_size)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_subclass_keep_its_attributes(duplicate):
    module = Annotated(4)
    copied = duplicate(module)
    assert copied.note == ["kept"] and copied.note is not module.note
    assert np.array_equal(copied(np.ones((2, 3)))[0], module(np.ones((2, 3)))[0])


def test_a_subclass_is_saved_and_loaded(tmp_path):
    module = Annotated(4)
    module.save(tmp_path / "model")
    loaded = clstm.Module.load(tmp_path / "model")
    assert type(loaded) is Annotated
    assert np.array_equal(loaded(np.ones((2, 3)))[0], module(np.ones((2, 3)))[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 3), (7, 2, 3), (0, 2, 3)])
def test_outputs_begin_with_a_cache_line(shape, dtype):
    lstm = clstm.LSTM(3, 5, dtype=dtype, batch_first=True, seed=0)
    outputs = [lstm(np.zeros(shape, dtype))[0] for _ in range(20)]
    assert [y.ctypes.data % 64 for y in outputs] == [0] * 20
    assert all(y.flags.writeable and y.flags.c_contiguous and y.shape == (*shape[:-1], 5) for y in outputs)


def test_outputs_that_no_memory_could_hold_are_refused():
    x = np.broadcast_to(np.float32(0), (1 << 40, 1 << 18, 1))
    with pytest.raises(MemoryError, match="cannot allocate 18446744073709551616 bytes"):
        clstm.LSTM(1, 16, seed=0)(x)


def test_large_outputs_are_nobody_elses():
    lstm = clstm.LSTM(1, 64, seed=0)
    x = np.zeros((2200, 64, 1), np.float32)  # y: 36 MB
    first, second = lstm(x)[0], lstm(x + 1)[0]
    kept, view = first.copy(), first[5:, 3]
    addresses = {first.ctypes.data, second.ctypes.data}
    del first
    third = lstm(x + 2)[0]
    assert len(addresses | {third.ctypes.data}) == 3, "the second array and a view of the first are held"
    assert np.array_equal(view, kept[5:, 3])
    del view, second
    assert np.array_equal(lstm(x)[0], kept)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems' malloc may keep large blocks too")
@pytest.mark.parametrize(("megabytes", "taken_back"), [(40, True), (70, False)])
def test_large_arrays_are_taken_back_unless_they_are_very_large(megabytes, taken_back):
    shape, dtype = (megabytes << 18,), np.dtype("float32")
    _core.empty_aligned(shape, dtype)[...] = 7
    again = _core.empty_aligned(shape, dtype)
    assert (again[1 << 20] == 7) == taken_back, "new memory of the system holds zeros"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
def test_large_outputs_that_are_kept_go_with_the_layer():
    lstm = clstm.LSTM(1, 64, seed=0)
    for _ in range(2):
        lstm(np.zeros((2200, 64, 1), np.float32))  # y: 36 MB
    kept = resident_bytes_in_use()
    del lstm
    assert kept - resident_bytes_in_use() > 30e6


def large_page_bytes():
    """Bytes of memory that the process has asked for large pages in."""
    gc.collect()
    total = size = 0
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            name, *rest = line.split()
            if name == "Size:":
                size = 1024 * int(rest[0])
            elif name == "VmFlags:" and "hg" in rest:
                total += size
    return total


has_large_pages = pytest.mark.skipif(
    not (large_pages.AVAILABLE and os.path.exists("/sys/kernel/mm/transparent_hugepage")),
    reason="a system without transparent huge pages",
)


@has_large_pages
def test_packs_lie_in_large_pages():
    lstm = clstm.LSTM(300, 300, seed=0)  # packed weights of 2.9 MB: numpy asks for large pages from 4 MiB on
    before = large_page_bytes()
    lstm(np.zeros((2, 300), np.float32))
    assert large_page_bytes() - before == 2 << 20


@has_large_pages
def test_the_next_pack_takes_the_place_of_one_that_nobody_has():
    lstm = clstm.LSTM(300, 300, seed=0)
    x = np.ones((2, 300), np.float32)
    lstm(x)
    before = large_page_bytes()
    for _ in range(5):
        lstm.bias_ih_l0 += 1
        lstm(x)
    assert large_page_bytes() == before


@pytest.fixture
def allocated(monkeypatch):
    """The sizes of the blocks in large pages that are allocated during a test."""
    sizes = []
    allocate = large_pages.allocate
    monkeypatch.setattr(large_pages, "allocate", lambda size: sizes.append(size) or allocate(size))
    return sizes


@has_large_pages
def test_steps_of_training_reuse_their_memory(allocated):
    lstm = clstm.LSTM(300, 300, seed=0)
    clstm.set_num_threads(1)
    x = np.ones((40, 32, 300), np.float32)  # scratch memory of 0.2 MB forward; backward 3.7 MB, in large pages
    counts = []
    for _ in range(6):
        y, _, tape = lstm.forward(x)
        grads = lstm.backward(tape, y)[-1]
        clstm.SGD(lstm).step(grads)
        counts.append(len(allocated))
    assert counts[2] > 2 and counts[5] == counts[2]


@has_large_pages
def test_a_network_that_serves_drops_what_only_training_needs(allocated):
    lstm = clstm.LSTM(300, 300, seed=0)
    clstm.set_num_threads(1)
    x = np.ones((40, 32, 300), np.float32)

    def allocated_by_training_after(plain_calls):
        for _ in range(plain_calls):
            lstm(x)
        before = len(allocated)
        y, _, tape = lstm.forward(x)
        lstm.backward(tape, y)
        return len(allocated) - before

    allocated_by_training_after(0)
    assert [allocated_by_training_after(n) for n in (0, 1, 15, 15, 16, 15)] == [0, 0, 0, 0, 2, 0], (
        "gradients, and scratch memory of the backward pass"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the size of the process from /proc")
@pytest.mark.parametrize(("B", "dropped_by"), [(24, 16), (40, 1)])
def test_spare_tapes_go_when_a_network_serves_and_very_large_ones_at_once(B, dropped_by):
    lstm = clstm.LSTM(1, 64, seed=0)
    x = np.zeros((1200, B, 1), np.float32)  # a tape of 44 MB, or of 74
    lstm(x)
    lstm.forward(x)  # whose tape is nobody's
    kept = resident_bytes_in_use()
    lost = []
    for _ in range(17):
        lstm(x)
        lost.append(kept - resident_bytes_in_use() > 30e6)
    assert lost == [n >= dropped_by for n in range(1, 18)]


def test_a_pack_that_a_tape_has_stays_as_it_is():
    lstm = clstm.LSTM(300, 300, seed=0)
    x = np.ones((2, 300), np.float32)
    y, _, tape = lstm.forward(x)
    expected = lstm.backward(tape, y)[0]
    y, _, tape = lstm.forward(x)
    for _ in range(3):
        lstm.load_state_dict({name: array + 1 for name, array in lstm.state_dict().items()})
        lstm.forward(x)
    assert np.array_equal(lstm.backward(tape, y)[0], expected)


@pytest.mark.skipif(not large_pages.AVAILABLE, reason="a system without transparent huge pages")
def test_memory_in_large_pages():
    memory = large_pages.allocate((5 << 20) + 3)
    assert memory.shape == ((5 << 20) + 3,) and memory.dtype == np.uint8
    assert memory.ctypes.data % (2 << 20) == 0
    memory[...] = 1
    with pytest.raises(MemoryError, match="cannot allocate 4611686018427387904 bytes"):
        large_pages.allocate(1 << 62)


def test_no_two_threads_are_lent_the_same_memory():
    lstm = clstm.LSTM(300, 300, seed=0)  # gradients of 2.9 MB, whose memory is given back to the system
    y, _, tape = lstm.forward(np.ones((2, 300), np.float32))
    expected = lstm.backward(tape, y)[-1]
    wrong = []

    def work():
        for _ in range(100):
            held = [lstm.backward(tape, y)[-1] for _ in range(3)]
            wrong.extend(name for grads in held for name in grads if not np.array_equal(grads[name], expected[name]))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

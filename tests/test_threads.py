"""Python threads, the GIL, processes and memory over many calls."""

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import sysconfig
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from problems import SPLIT_BY_ROWS, SPLIT_BY_UNITS, Problem, assert_same_bytes, called, outputs

import clstm


def in_threads(count, work):
    """Run work(0) .. work(count - 1), each in its own thread, all at once."""
    barrier = threading.Barrier(count)

    def run(i):
        barrier.wait()
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("problem", [Problem(9, 33, 2, True, T=12, with_lengths=True), SPLIT_BY_UNITS])
def test_ten_threads_get_the_bytes_of_one(problem, limit):
    clstm.set_num_threads(limit)
    lstm = problem.lstm()
    batches = [problem._replace(B=B, T=T, seed=seed).batch() for seed, (B, T) in enumerate([(1, 30), (7, 12), (40, 5)])]
    expected = [outputs(lstm, batch) for batch in batches]

    def work(i):
        for turn in range(12):
            which = (i + turn) % len(batches)
            assert_same_bytes(outputs(lstm, batches[which]), expected[which])

    in_threads(10, work)


def test_streams_in_ten_threads_get_the_bytes_of_one():
    lstm = Problem(5, 17, 2).lstm()
    x = np.random.default_rng(0).standard_normal((10, 60, 5)).astype(np.float32)
    expected = [lstm(row)[0] for row in x]

    def work(i):
        for _ in range(5):
            stream = lstm.stream()
            assert_same_bytes(np.stack([stream.step(x_t) for x_t in x[i]]), expected[i])

    in_threads(10, work)


def test_networks_made_and_dropped_in_threads():
    problem = Problem(5, 17, 2, T=9)
    expected = outputs(problem.lstm(), problem.batch())

    def work(i):
        for _ in range(20):
            assert_same_bytes(outputs(problem.lstm(), problem.batch()), expected)

    in_threads(6, work)


def test_models_are_made_used_copied_saved_and_dropped_by_many_threads_at_once(tmp_path):
    """Eight threads do anything that they may with one LSTM; tapes and views pass from thread to thread."""
    problem = Problem(5, 17, 2, True, T=9, B=3)
    lstm, batch = problem.lstm(), problem.batch()
    expected, weights = outputs(lstm, batch), lstm.state_dict()
    y, dx, stepped = expected["y"], expected["dx"], clstm.LSTM(5, 5, seed=0)
    first_step = stepped(batch.x[0, :1])[0]
    passed_on = [lstm.forward(batch.x, batch.state)[2]]

    def record():
        passed_on.append(lstm.forward(batch.x, batch.state)[2])

    def backward():
        tape = random.choice(passed_on)
        assert_same_bytes(lstm.backward(tape, batch.dy, batch.dstate)[0], dx)
        del passed_on[:-5]

    def save_and_load():
        path = tmp_path / f"{random.randrange(3)}.safetensors"  # others write it too
        lstm.save(path)
        same(clstm.LSTM.load(path))

    def same(other):
        assert_same_bytes(other(batch.x, batch.state)[0], y)

    def stream():
        assert_same_bytes(stepped.stream().step(batch.x[0, :1]), first_step)

    deeds = [
        record,
        backward,
        save_and_load,
        stream,
        lambda: same(lstm),
        lambda: same(copy.deepcopy(lstm)),
        lambda: same(pickle.loads(pickle.dumps(lstm))),
        lambda: assert_same_bytes(outputs(problem.lstm(), batch), expected),
        lambda: lstm.load_state_dict(weights),
        lambda: assert_same_bytes(lstm.weight_hh_l0_reverse, weights["weight_hh_l0_reverse"]),
        lambda: clstm.set_num_threads(random.randint(1, 4)),
        gc.collect,
    ]

    def work(i):
        for _ in range(40):
            random.choice(deeds)()

    in_threads(8, work)
    assert_same_bytes(outputs(lstm, batch), expected)


@pytest.mark.parametrize("variant", [{}, {"proj_size": 5, "peepholes": True}], ids=["plain", "variant"])
def test_one_stream_in_many_threads_breaks_nothing(variant):
    """A stream is for one thread at a time. Where that is not kept, values are of no use, and nothing worse happens."""
    lstm = Problem(3, 17, 2, variant=variant).lstm()
    x, weights = np.ones(3, np.float32), lstm.state_dict()
    stream, state = lstm.stream(), lstm.stream().state
    features = stream.step(x).shape
    deeds = [
        *[lambda: stream.step(x)] * 5,
        stream.reset,
        lambda: setattr(stream, "state", state),
        lambda: copy.copy(stream).step(x),
        lambda: lstm.load_state_dict(weights),
        lambda: lstm.weight_hh_l1,  # while it lives, each step packs anew
        lambda: stream.state[0],
    ]

    def work(i):
        for _ in range(300):
            found = random.choice(deeds)()
            assert found is None or np.all(np.abs(found) <= 1 if found.shape == features else np.isfinite(found))

    in_threads(8, work)
    stream.reset()
    assert_same_bytes(stream.step(x), lstm(x[None])[0][0])


def test_short_calls_in_many_threads_keep_their_memory_apart():
    """Calls so short that threads take and give back the memory kept for calls at the same moment."""
    lstm = clstm.LSTM(8, 24, 2, init="pytorch", seed=0)
    batches = [np.full((6, 2, 8), 0.1 * i, np.float32) for i in range(8)]
    expected = [lstm.forward(x)[0].tobytes() for x in batches]

    def work(i):
        for _ in range(2000):
            assert lstm.forward(batches[i])[0].tobytes() == expected[i]
            assert lstm(batches[i])[0].tobytes() == expected[i]

    in_threads(8, work)


def test_views_of_weights_are_counted_right_by_many_threads():
    """Packs are kept while there is no view: one that is lost or counted twice shows in whether they are."""
    lstm, x = clstm.LSTM(2, 3, seed=0), np.ones((1, 2), np.float32)
    view = lstm.bias_ih_l0
    exporter = view.base.obj

    def work(i):
        for _ in range(20_000):
            memoryview(exporter).release()

    def pack():
        return lstm.forward(x)[2].pack

    in_threads(4, work)
    assert pack() is not pack()
    del view
    assert pack() is pack()


def test_training_calls_in_many_threads_draw_masks_of_their_own():
    """As many masks as one thread would draw, and the same ones."""
    x = np.ones((1, 40), np.float32)

    def drawn(lstm):
        return lstm.forward(x)[0].tobytes()

    one, many = (clstm.LSTM(40, 8, variational_dropout_x=0.5, seed=0) for _ in range(2))
    expected = [drawn(one) for _ in range(8 * 40)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        found = in_threads(8, lambda i: [drawn(many) for _ in range(40)])
    finally:
        sys.setswitchinterval(interval)
    assert sorted(itertools.chain(*found)) == sorted(expected)
    assert many.dropout_counter == one.dropout_counter == 8 * 40


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [2, 4, 5, 6])
def test_few_rows_with_large_weights_get_the_bytes_of_one_thread(rows, dtype):
    """Threads share units rather than rows where each would wait for all weights."""
    problem = Problem(300, 260, 2, True, dtype=dtype, T=5, B=rows)
    lstm, batch = problem.lstm(), problem.batch()
    clstm.set_num_threads(1)
    expected = outputs(lstm, batch)
    for n in (2, 3):
        clstm.set_num_threads(n)
        assert_same_bytes(outputs(lstm, batch), expected)


@pytest.mark.parametrize("problem", [SPLIT_BY_ROWS, SPLIT_BY_UNITS], ids=["rows", "units"])
def test_the_number_of_threads_may_change_during_calls(problem):
    lstm, batch = problem.lstm(), problem.batch()
    expected = outputs(lstm, batch)
    done = threading.Event()

    def change():
        while not done.is_set():
            for n in (1, 4, 2, 7):
                clstm.set_num_threads(n)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(30):
            assert_same_bytes(outputs(lstm, batch), expected)
    finally:
        done.set()
        changer.join()


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "n is 0, but at least 1 is expected"),
        (-2, ValueError, "n is -2, but at least 1 is expected"),
        (1025, ValueError, "n is 1025, but at most 1024 is expected"),
        (2**40, ValueError, "n is 1099511627776, but at most 1024 is expected"),
        (1.5, TypeError, "n is 1.5, but an integer is expected"),
        (True, TypeError, "n is True, but an integer is expected"),
    ],
)
def test_wrong_numbers_of_threads_are_refused(n, error, message):
    before = clstm.get_num_threads()
    with pytest.raises(error, match=message):
        clstm.set_num_threads(n)
    assert clstm.get_num_threads() == before


def test_the_number_of_threads_is_what_was_set():
    for n in (1, 3, 1024):
        clstm.set_num_threads(n)
        assert clstm.get_num_threads() == clstm.cpu_info()["num_threads"] == n


def run_python(code, **environment):
    """What a new Python process prints; it must end well. A variable that is None is unset."""
    environment = {name: text for name, text in (os.environ | environment).items() if text is not None}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to a processor")
def test_the_default_number_of_threads_is_that_of_processors_this_process_may_use():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import clstm
print(clstm.get_num_threads())
"""
    assert run_python(code, CLSTM_NUM_THREADS=None) == "1"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells where a thread may run")
def test_workers_keep_off_their_callers_processor_and_no_other():
    clstm.set_num_threads(2)
    lstm = clstm.LSTM(64, 64, seed=0)
    x = np.zeros((20, 32, 64), np.float32)
    allowed = os.sched_getaffinity(0)
    for _ in range(20):
        time.sleep(0.02)
        lstm(x)
    time.sleep(0.02)
    assert os.sched_getaffinity(0) == allowed
    forbidden = [len(allowed - os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")]
    assert max(forbidden) == (1 if len(allowed) > 1 else 0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells where a thread may run")
def test_workers_make_way_for_a_caller_that_moves():
    """Of two processors a worker keeps one for itself."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a caller has nowhere to move to")
    code = """
import os, time
allowed = set(sorted(os.sched_getaffinity(0))[:2])
os.sched_setaffinity(0, allowed)
import numpy as np
import clstm

lstm = clstm.LSTM(128, 128, seed=0)
x = np.zeros((20, 32, 128), np.float32)

def processor():
    return int(open("/proc/thread-self/stat").read().rpartition(")")[2].split()[36])

def forbidden():
    return set().union(*(allowed - os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")))

for to in sorted(allowed) * 10:
    os.sched_setaffinity(0, {to})
    os.sched_setaffinity(0, allowed)
    lstm(x)
    deadline = time.monotonic() + 5
    while processor() == to and forbidden() != {to}:
        assert time.monotonic() < deadline, (to, forbidden())
        time.sleep(0.01)
"""
    run_python(code, CLSTM_NUM_THREADS="2")


def test_threadpoolctl_is_told_of_a_wrong_number():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    before = clstm.get_num_threads()
    with pytest.raises(ValueError, match="n is 0, but at least 1 is expected"):
        threadpoolctl.threadpool_limits({"clstm": 0})
    assert clstm.get_num_threads() == before


def test_threadpoolctl_sees_and_limits_the_pool():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    clstm.set_num_threads(3)
    (pool,) = [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "clstm"]
    assert (pool["num_threads"], pool["version"]) == (3, clstm.__version__)
    for limits in (1, {"clstm": 1}):
        with threadpoolctl.threadpool_limits(limits):
            assert clstm.get_num_threads() == 1
        assert clstm.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert clstm.get_num_threads() == 3


# ---- the GIL ----


def long_calls():
    """Calls of some hundredths of a second, each prepared so that it only computes."""
    lstm = clstm.LSTM(256, 512, init="pytorch", seed=0)
    x = np.zeros((8, 64, 256), np.float32)
    y, _, tape = lstm.forward(x)
    stream, steps, out = lstm.stream(512), np.zeros((512, 256), np.float32), np.empty((512, 512), np.float32)
    stream.step(steps, out=out)
    return {
        "call": lambda: lstm(x),
        "forward": lambda: lstm.forward(x),
        "backward": lambda: lstm.backward(tape, y),
        "step": lambda: stream.step(steps, out=out),
    }


def another_thread_runs_during(call):
    """Whether another thread gets to run between start and end of a call. The switch interval is so long that Python
    itself never takes the GIL from a thread."""
    started, finished, seen = threading.Event(), threading.Event(), []

    def work():
        started.set()
        call()
        finished.set()

    def watch():
        started.wait()
        seen.append(not finished.is_set())

    interval = sys.getswitchinterval()
    threads = threading.Thread(target=watch), threading.Thread(target=work)
    sys.setswitchinterval(1000)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return seen == [True]


gil_is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
needs_gil = pytest.mark.skipif(not gil_is_enabled(), reason="this Python runs without a GIL")


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python is not a free-threaded one")
def test_a_free_threaded_python_stays_so():
    code = """
import sys, warnings, numpy, safetensors
before = sys._is_gil_enabled()
warnings.simplefilter("error")
import clstm
print(sys._is_gil_enabled() == before)
"""
    assert run_python(code, PYTHON_GIL=None) == "True"


@needs_gil
def test_calls_release_the_gil():
    for name, call in long_calls().items():
        assert any(another_thread_runs_during(call) for _ in range(10)), (
            name
        )  # one may come too late, on a busy machine


@needs_gil
def test_the_test_of_the_gil_sees_a_call_that_keeps_it():
    numbers = list(np.random.default_rng(0).standard_normal(100_000))
    assert not another_thread_runs_during(numbers.sort)


# ---- processes ----


def child_results(problem):
    return outputs(problem.lstm(), problem.batch())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_of_every_kind_get_the_same_bytes(method):
    problem = Problem(17, 65, T=24, B=33)
    expected = child_results(problem)  # the pool of threads runs when the process forks
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.map(child_results, [problem] * 2):
            assert_same_bytes(found, expected)
    assert_same_bytes(child_results(problem), expected)


def test_the_interpreter_exits_while_threads_compute():
    code = """
import threading, numpy as np, clstm
lstm = clstm.LSTM(64, 128, seed=0)
x = np.zeros((100, 32, 64), np.float32)
def work():
    while True:
        lstm.backward(lstm.forward(x)[2], np.ones((100, 32, 128), np.float32))
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
lstm(x)
print("done")
"""
    assert run_python(code, CLSTM_NUM_THREADS="2") == "done"


# ---- memory ----


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_many_small_calls_do_not_grow_memory():
    lstm = clstm.LSTM(2, 3, 2, dropout=0.5, seed=0)
    x, state = np.ones((2, 1, 2), np.float32), (np.ones((2, 1, 3), np.float32),) * 2
    stream, step_out = lstm.stream(), np.empty(3, np.float32)

    def round_of_calls(count):
        for _ in range(count):
            lstm(x, state, [2])
            y, _, tape = lstm.forward(x)
            lstm.backward(tape, y, state)
            for _ in range(17):
                stream.step(x[0, 0], out=step_out)

    tracemalloc.start()
    try:
        round_of_calls(200)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        round_of_calls(1500)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 15_000  # 10 bytes a round, less than any object
    finally:
        tracemalloc.stop()
    if os.path.exists("/proc/self/statm"):  # what malloc was asked for behind Python's back
        before = resident_bytes()
        round_of_calls(5000)  # 100,000 calls in all
        assert resident_bytes() - before < 2**20


def test_networks_tapes_and_streams_free_their_memory():
    def make():
        lstm = clstm.LSTM(100, 100, 2, init="pytorch")
        _, _, tape = lstm.forward(np.zeros((20, 10, 100), np.float32))
        stream = lstm.stream(50)
        stream.step(np.zeros((50, 100), np.float32))
        held = lstm.weight_ih_l0
        return lstm, tape, stream, held

    make()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            make()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def test_memory_of_cycles_is_freed():
    """A tape that refers to itself through other objects, so that the garbage collector takes it apart."""
    code = """
import gc, numpy as np, clstm
class Holder: pass
for _ in range(100):
    holder = Holder()
    holder.lstm = clstm.LSTM(5, 8)
    holder.stream = holder.lstm.stream()
    holder.tape = holder.lstm.forward(np.zeros((3, 2, 5)))[2]
    holder.lstm.owner = holder
    holder.itself = holder
    del holder
    gc.collect()
print("done")
"""
    assert run_python(code) == "done"


def test_a_held_view_and_a_calling_thread():
    """A thread calls while another one holds a view of a weight and changes it between the calls."""
    problem = Problem(5, 9, T=6, B=3)
    lstm, x = problem.lstm(), problem.batch().x
    view = lstm.weight_hh_l0
    stream = lstm.stream(3)
    with ThreadPoolExecutor(1) as pool:
        for turn in range(5):
            view[...] += 0.125
            fresh = clstm.LSTM(**lstm.config())
            fresh.load_state_dict(lstm.state_dict())
            assert_same_bytes(pool.submit(lambda: lstm(x)[0]).result(), fresh(x)[0])
            stream.reset()
            assert_same_bytes(pool.submit(lambda: stream.step(x[0])).result(), fresh(x[:1])[0][0])
            if turn == 2:
                del view
                view = lstm.parameters()["weight_hh_l0"]


def test_weights_that_change_during_calls_break_nothing():
    """Results are of some weights in between; afterwards they are those of the last ones."""
    problem = Problem(9, 33, T=10, B=5)
    lstm, batch = problem.lstm(), problem.batch()
    weights = [lstm.state_dict(), {name: 2 * array for name, array in lstm.state_dict().items()}]
    expected = called(lstm, batch)
    done = threading.Event()

    def change():
        turn = 0
        while not done.is_set():
            turn += 1
            lstm.load_state_dict(weights[turn % 2])
            lstm.bias_ih_l0[...] += 1

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(200):
            y, _, tape = lstm.forward(batch.x)
            lstm.backward(tape, y)
            assert np.isfinite(lstm(batch.x)[0]).all()
    finally:
        done.set()
        changer.join()
    lstm.load_state_dict(weights[0])
    assert_same_bytes(called(lstm, batch), expected)

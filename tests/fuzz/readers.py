"""Looks for files and arguments that make the Python readers do anything but succeed or raise what their documentation
names: another exception, a crash, five seconds of work, a gigabyte of memory. Coverage-guided, by Atheris.

    python tests/fuzz/readers.py TARGET [options of libFuzzer] [folders of inputs, the first receives new ones]
"""

import contextlib
import os
import resource
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["clstm"], exclude=["clstm._core"]):
    import clstm
    import clstm.interop.keras_layers
    import clstm.interop.keras_model
    import clstm.interop.nam
    import clstm.interop.onnx_model
    import clstm.interop.rtneural

MOST_MEMORY = 1 << 30
MOST_SECONDS = 5  # of work: a busy machine may let any input wait
MOST_PARAMETERS = 10**6
FILE = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None), "input")
KERAS_WEIGHTS = Path(__file__).parent.joinpath("corpus", "keras", "positions.h5").read_bytes()

no_such_file = contextlib.suppress(ValueError)
no_such_model = contextlib.suppress(ValueError, NotImplementedError)
wrong_argument = contextlib.suppress(ValueError, TypeError)


def run(lstm):
    """What was read can be used."""
    if lstm.num_parameters < MOST_PARAMETERS:
        lstm(np.zeros((2, lstm.input_size)))


def run_all(model):
    for lstm in model.lstms.values():
        run(lstm)


def process(model):
    model.process(np.zeros((2, model.channels)))


def safetensors(data):
    """A file: as a model, as a state dict, as arrays, as what stands beside a model."""
    FILE.write_bytes(data)
    for read in clstm.Module.load, clstm.read_safetensors, clstm.read_extra:
        with no_such_file:
            read(FILE)
    with wrong_argument:
        run(clstm.LSTM.from_state_dict(FILE))


def config(data):
    """The configuration of a model file, whose arrays are good."""
    text = data.decode("utf-8", "replace")
    clstm.write_safetensors(FILE, clstm.LSTM(3, 4).state_dict(), {"format": "clstm", "version": "1", "config": text})
    with no_such_file:
        run(clstm.LSTM.load(FILE))
    with no_such_file:
        clstm.Module.load(FILE)


def use_file(data, read, use):
    """A model of a file."""
    FILE.write_bytes(data)
    with no_such_model:
        use(read(FILE))


def onnx(data):
    use_file(data, clstm.from_onnx, run_all)


def keras(data):
    """An HDF5 file."""
    use_file(data, clstm.from_keras, run_all)


def keras_config(data):
    """The configuration in an archive whose arrays are good."""
    with zipfile.ZipFile(FILE, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.5.0"}')
        archive.writestr("config.json", data)
        archive.writestr("model.weights.h5", KERAS_WEIGHTS)
    with no_such_model:
        run_all(clstm.from_keras(FILE))


def nam(data):
    use_file(data, clstm.from_nam, process)


def rtneural(data):
    use_file(data, clstm.from_rtneural, process)


class Arguments:
    """Arrays and numbers that data chooses."""

    def __init__(self, data):
        self.provider = atheris.FuzzedDataProvider(data)

    def one_of(self, *choices):
        return choices[self.provider.ConsumeIntInRange(0, len(choices) - 1)]

    def small(self):
        return self.provider.ConsumeIntInRange(-1, 6)

    def integers(self):
        return [self.one_of(self.small(), self.small(), self.provider.ConsumeInt(9)) for _ in range(abs(self.small()))]

    def array(self):
        shape = [abs(self.small()) for _ in range(self.provider.ConsumeIntInRange(0, 4))]
        return np.ones(shape, self.one_of("f4", "f8", ">f4", "i2", "?", "c8", "O", "U1"))

    def indices(self):
        array = np.array(self.integers(), dtype=object)
        with contextlib.suppress(OverflowError, TypeError):
            array = array.astype(self.one_of("i8", "i8", "i4", "u8", "f4", "?"))
        return self.one_of(None, array, array[None], array[::-1])

    def x(self):
        """What a call takes; rarely anything else."""
        return np.ones((4, 3, 2), np.float32) if self.provider.ConsumeBool() else self.array()


def arguments(data):
    """Lengths, masks, states and packed sequences of a call, and what makes and undoes them."""
    a = Arguments(data)
    lstm = clstm.LSTM(2, 3, 2, bidirectional=a.one_of(False, True), batch_first=a.one_of(False, True), init="pytorch")
    steps = a.one_of(np.ones((abs(a.small()), 2), np.float32), a.array())
    packed = clstm.PackedSequence(steps, *(a.indices() for _ in range(3)))
    state = a.one_of(None, (a.array(), None), (None, a.array()), [a.array(), a.array()], a.array())
    with wrong_argument:
        y, _, tape = lstm.forward(a.one_of(a.x(), packed), state, a.indices(), a.one_of(None, a.array()))
        lstm.backward(tape, a.one_of(None, y, a.array()), state)
    for function in (
        lambda: lstm(a.x(), state, a.indices()),
        lambda: clstm.pad_packed_sequence(packed, a.one_of(False, True), 0.0, a.one_of(None, a.small())),
        lambda: clstm.pack_padded_sequence(a.array(), a.indices(), a.one_of(False, True), a.one_of(False, True)),
        lambda: clstm.unpad_sequence(a.array(), a.indices(), a.one_of(False, True)),
        lambda: clstm.unpack_sequence(packed),
        lambda: clstm.pad_sequence([a.array() for _ in range(abs(a.small()))], a.one_of(False, True)),
        lambda: clstm.LSTM(2, 3, init="pytorch").stream(3).step(a.array(), out=a.one_of(None, a.array())),
    ):
        with wrong_argument:
            function()


TARGETS = {f.__name__: f for f in (safetensors, config, onnx, keras, keras_config, nam, rtneural, arguments)}


def main():
    target = TARGETS[sys.argv.pop(1)]

    def watched(data):
        start = time.process_time()
        target(data)
        assert time.process_time() - start < MOST_SECONDS

    target(b"")  # what is imported on first use takes its memory now
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    atheris.Setup([sys.argv[0], "-timeout=200", "-rss_limit_mb=2048", *sys.argv[1:]], watched)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

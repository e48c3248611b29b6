"""Models that PyTorch exports: packed sequences, and what stands around an LSTM. ONNX Runtime says what comes out."""

import contextlib
import io
import warnings

import numpy as np
import pytest

import clstm

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
rnn_utils = torch.nn.utils.rnn

T, B, I, H = 5, 3, 4, 6


def export(path, model, args, dynamo=False, opset=17, dynamic=False):
    """Write the model; with `dynamic`, time and batch stay free."""
    names = [f"in{i}" for i in range(len(args))]
    axes = {}
    if dynamic:
        time_and_batch = {0: "batch", 1: "time"} if model.rnn.batch_first else {0: "time", 1: "batch"}
        axes = {"in0": time_and_batch} | {name: {0: "batch"} if name == "in1" else {1: "batch"} for name in names[1:]}
    warning = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), warning[0], warning[1]:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), args, path, dynamo=dynamo, input_names=names, opset_version=opset,
            **({"dynamic_axes": axes} if axes else {}),
        )  # fmt: skip
    return path


def assert_runs_as_in_onnx_runtime(path, args):
    session = ort.InferenceSession(path)
    inputs = dict(zip((value.name for value in session.get_inputs()), (arg.numpy() for arg in args), strict=True))
    found = clstm.from_onnx(path)(inputs)
    for (name, array), expected in zip(found.items(), session.run(None, inputs), strict=True):
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=2e-6, err_msg=name)


class Packed(nn.Module):
    """Rows of any lengths in any order through an LSTM; all steps, or the last of each row."""

    def __init__(self, last, **options):
        super().__init__()
        self.last, self.rnn = last, nn.LSTM(I, H, **options)
        self.head = nn.Linear(H * (2 if self.rnn.bidirectional else 1), 2)

    def forward(self, x, lengths, *state):
        first = self.rnn.batch_first
        packed = rnn_utils.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        y, (h, c) = self.rnn(packed, state or None)
        y, lengths = rnn_utils.pad_packed_sequence(y, batch_first=first)
        if self.last:
            last, rows = lengths.to(torch.int64) - 1, torch.arange(lengths.shape[0])
            y = y[rows, last] if first else y[last, rows]
        return self.head(y), h, c


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("bidirectional", "layers", "states", "opset"), [(False, 1, False, 17), (True, 2, True, 17), (True, 1, True, 11)]
)
def test_packed_sequences(tmp_path, batch_first, last, bidirectional, layers, states, opset):
    torch.manual_seed(0)
    model = Packed(last, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first)
    D = layers * (2 if bidirectional else 1)

    def inputs_of(T, lengths):
        B = len(lengths)
        state = [torch.randn(D, B, H) for _ in "hc"] if states else []
        return torch.randn((B, T, I) if batch_first else (T, B, I)), torch.tensor(lengths), *state

    path = export(tmp_path / "m", model, inputs_of(T, [3, T, 1]), opset=opset, dynamic=True)
    for T_now, lengths in ((T, [3, T, 1]), (7, [2, 7, 1, 6]), (2, [2])):
        assert_runs_as_in_onnx_runtime(path, inputs_of(T_now, lengths))


class Tail(nn.Module):
    """An LSTM, something made of its outputs, and a linear layer."""

    def __init__(self, tail, activation=None):
        super().__init__()
        self.rnn, self.tail = nn.LSTM(I, H, batch_first=True, bidirectional=True), tail
        self.head, self.activation = nn.Linear(2 * H, 4), activation or nn.Identity()

    def forward(self, x):
        y, (h, _) = self.rnn(x)
        return self.activation(self.head(self.tail(y, h)))


TAILS = {
    "last step": lambda y, h: y[:, -1],
    "final states": lambda y, h: torch.cat([h[-2], h[-1]], 1),
    "states by row": lambda y, h: h.transpose(0, 1).reshape(h.shape[1], -1),
    "mean": lambda y, h: y.mean(1),
    "deviation": lambda y, h: y.std(1),
    "largest": lambda y, h: y.max(1)[0],
    "one row per step": lambda y, h: y.contiguous().view(-1, y.shape[-1]),
    "attention": lambda y, h: torch.bmm(torch.softmax(torch.einsum("bti,bi->bt", y, y[:, -1]), 1)[:, None], y)[:, 0],
    "directions swapped": lambda y, h: torch.cat(y.chunk(2, -1)[::-1], -1),
    "backwards": lambda y, h: y.flip(1),
    "running sum": lambda y, h: y.cumsum(1),
    "product": lambda y, h: y.prod(1),
    "unit length": lambda y, h: nn.functional.normalize(y, dim=-1),
    "masked": lambda y, h: y.masked_fill(y < 0, -1.0),
    "three best": lambda y, h: y.topk(3, 1)[0],
    "rounded": lambda y, h: (3 * y).round() + y.sign() + y.rsqrt().nan_to_num(),
}


@pytest.mark.filterwarnings("error")  # a NaN on the way is no news
@pytest.mark.parametrize("tail", TAILS)
def test_what_is_made_of_the_outputs(tmp_path, tail):
    torch.manual_seed(0)
    x = torch.randn(B, T, I)
    assert_runs_as_in_onnx_runtime(export(tmp_path / "m", Tail(TAILS[tail]), (x,)), (x,))


ACTIVATIONS = [
    nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.SELU(), nn.ELU(0.5), nn.CELU(0.7), nn.Mish(), nn.Softplus(),
    nn.Hardtanh(),
    nn.Hardswish(), nn.Hardsigmoid(), nn.ReLU6(), nn.PReLU(), nn.LogSigmoid(), nn.Softmax(-1), nn.LogSoftmax(-1),
    nn.LeakyReLU(0.1), nn.GLU(), nn.Softsign(), nn.Tanhshrink(), nn.Hardshrink(), nn.Softshrink(), nn.LayerNorm(4),
]  # fmt: skip


@pytest.mark.parametrize(("activation", "opset"), [(nn.GELU(), 14), *((activation, 20) for activation in ACTIVATIONS)])
def test_activations(tmp_path, activation, opset):
    torch.manual_seed(0)
    x = 3 * torch.randn(B, T, I)
    model = Tail(TAILS["last step"], activation)
    assert_runs_as_in_onnx_runtime(export(tmp_path / "m", model, (x,), opset=opset), (x,))


class Convolutional(nn.Module):
    """Features of an image, column by column, as for reading text."""

    def __init__(self):
        super().__init__()
        pools = nn.MaxPool2d(2), nn.AvgPool2d(2, stride=1, padding=1), nn.AdaptiveAvgPool2d((1, None))
        self.features = nn.Sequential(nn.Conv2d(1, I, 3, padding=1), nn.BatchNorm2d(I), nn.ReLU(), *pools)
        self.rnn = nn.LSTM(I, H, bidirectional=True)

    def forward(self, x):
        return self.rnn(self.features(x[:, None]).squeeze(2).permute(2, 0, 1))[0]


class Tokens(nn.Module):
    """Texts of any lengths, padded with 0, in; logits out."""

    def __init__(self):
        super().__init__()
        self.table, self.rnn = nn.Embedding(10, I, padding_idx=0), nn.LSTM(I, H, 2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(H, 10)

    def forward(self, tokens):
        lengths = (tokens != 0).sum(1)
        packed = rnn_utils.pack_padded_sequence(self.table(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.rnn(packed)[1][0][-1])


@pytest.mark.parametrize("kind", [Convolutional, Tokens])
def test_what_comes_before(tmp_path, kind):
    torch.manual_seed(0)
    x = torch.randn(B, 8, 6) if kind is Convolutional else torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]])
    assert_runs_as_in_onnx_runtime(export(tmp_path / "m", kind(), (x,)), (x,))


@pytest.mark.parametrize("tail", ["last step", "deviation", "attention", "three best", "unit length"])
@pytest.mark.parametrize("activation", [nn.GELU(), nn.Mish()], ids=str)
def test_exports_of_the_newer_kind(tmp_path, tail, activation):
    pytest.importorskip("onnxscript", reason="onnxscript, which torch.onnx.export(dynamo=True) needs, is not installed")
    torch.manual_seed(0)
    x = torch.randn(B, T, I)
    path = export(tmp_path / "m", Tail(TAILS[tail], activation), (x,), dynamo=True, opset=None)
    assert_runs_as_in_onnx_runtime(path, (x,))

"""What `clstm.torch.LSTM` refuses: what PyTorch refuses too, in its words, and what is not supported."""

import pytest
from torch_builders import ZEROS, pair, rnn, torch

import clstm.torch

PACKED = rnn.pack_sequence([torch.zeros(3, 3), torch.zeros(2, 3)])


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.zeros(0, 2, 3),),
        (torch.zeros(5, 2, 4),),
        (torch.zeros(3),),
        (torch.zeros(1, 5, 2, 3),),
        (ZEROS.double(),),
        (ZEROS.to("meta"),),
        (ZEROS, (torch.zeros(1, 4), torch.zeros(1, 4))),
        (ZEROS, (torch.zeros(1, 3, 4), torch.zeros(1, 2, 4))),
        (ZEROS, (torch.zeros(1, 2, 4), torch.zeros(2, 2, 4))),
        (ZEROS, (torch.zeros(1, 2, 4, dtype=torch.float64), torch.zeros(1, 2, 4))),
        (ZEROS[:, 0], (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))),
        (PACKED, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))),
        (PACKED, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))),
        (rnn.PackedSequence(torch.zeros(5, 4), PACKED.batch_sizes),),
    ],
)
def test_what_pytorch_refuses_is_refused_with_the_same_kind_of_error(arguments):
    theirs, ours = pair(3, 4)
    with pytest.raises((ValueError, RuntimeError)) as expected:
        theirs(*arguments)
    with pytest.raises(expected.type) as found:
        ours(*arguments)
    if str(expected.value).startswith(("Expected", "For", "input", "LSTM", "RNN")):
        assert str(found.value) == str(expected.value)


def test_what_is_not_supported_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"input dtype \(torch.float64\) does not match weight dtype \(torch.float32\)"
    ):
        clstm.torch.LSTM(3, 4)(rnn.PackedSequence(torch.zeros(5, 3).double(), PACKED.batch_sizes))
    unsorted = rnn.pack_sequence([torch.zeros(2, 3), torch.zeros(3, 3)], enforce_sorted=False)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 2, 4\), got \[1, 3, 4\]"):
        clstm.torch.LSTM(3, 4)(unsorted, (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)))
    with pytest.raises(ValueError, match="dtype is torch.bfloat16, but torch.float32 or torch.float64 is expected"):
        clstm.torch.LSTM(3, 4).bfloat16()(ZEROS.bfloat16())
    with pytest.raises(RuntimeError, match="input is on meta, but clstm.torch.LSTM computes on the CPU"):
        clstm.torch.LSTM(3, 4)(ZEROS.to("meta"))
    with pytest.raises(RuntimeError, match="weight is on meta, but clstm.torch.LSTM computes on the CPU"):
        clstm.torch.LSTM(3, 4, device="meta")(ZEROS)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_tracing_is_refused():
    """A trace, and the ONNX file made of one, would hold the results of the example as constants."""
    model = torch.nn.Sequential(clstm.torch.LSTM(3, 4))
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot be traced; put torch.nn.LSTM in its place"):
        torch.jit.trace(model, ZEROS)
    with pytest.raises(RuntimeError, match="cannot be traced; put torch.nn.LSTM in its place"):
        torch.export.export(model, (ZEROS,), strict=False)

"""clstm.torch.LSTM beside torch.nn.LSTM with the same weights, for several tests; all of them need PyTorch."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torch.set_num_threads(1)

import clstm.torch  # noqa: E402 - which imports torch

rnn = torch.nn.utils.rnn
ZEROS = torch.zeros(5, 2, 3)


def pair(*sizes, seed=0, **options):
    """nn.LSTM and the module that stands in for it, with the same weights."""
    modules = []
    for kind in (torch.nn.LSTM, clstm.torch.LSTM):
        torch.manual_seed(seed)
        modules.append(kind(*sizes, **options))
    return modules


def tensors(*arrays):
    return [torch.from_numpy(np.array(array)).requires_grad_() for array in arrays]

"""Training parts together: what holds for all of them, and a model that they train."""

import numpy as np
import pytest

import clstm


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_layers_and_losses_agree_with_pytorch(dtype, tolerance):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    model = clstm.Sequential(clstm.Embedding(11, 6, dtype=dtype, seed=1), clstm.Linear(6, 11, dtype=dtype, seed=2))
    theirs = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 11)).to(getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})
    x, targets = rng.integers(0, 11, (7, 5)), rng.integers(0, 11, (7, 5))
    targets[2, 3] = targets[6, 0] = -100
    goal = rng.standard_normal((7, 5, 11)).astype(dtype)

    y, _, tape = model.forward(x)
    their_y = theirs(torch.tensor(x))
    cross, dcross = clstm.cross_entropy(y, targets, ignore_index=-100)
    mse, dmse = clstm.mse_loss(y, goal)
    their_cross = torch.nn.functional.cross_entropy(their_y.reshape(-1, 11), torch.tensor(targets).reshape(-1))
    their_mse = torch.nn.functional.mse_loss(their_y, torch.tensor(goal))
    (their_cross + their_mse).backward()
    _, _, grads = model.backward(tape, dcross + dmse)

    np.testing.assert_allclose(y, their_y.detach().numpy(), rtol=0, atol=tolerance)
    assert cross == pytest.approx(their_cross.item(), rel=tolerance)
    assert mse == pytest.approx(their_mse.item(), rel=tolerance)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=0, atol=tolerance, err_msg=name)


def test_a_small_model_learns_a_text_by_truncated_bptt():
    text = np.frombuffer(b"to be or not to be, that is the question. " * 20, np.uint8) - 32
    model = clstm.Sequential(clstm.Embedding(96, 8, seed=0), clstm.LSTM(8, 24, seed=0), clstm.Linear(24, 96, seed=0))
    steps = 400
    optimizer = clstm.AdamW(model, lr=0.02)
    schedule = clstm.cosine(0.02, steps, 5)
    state, losses = None, []
    for step in range(steps):
        start = 20 * (step % 40)
        chunk = text[start : start + 21, None]
        logits, state, tape = model.forward(chunk[:-1], state)
        loss, dlogits = clstm.cross_entropy(logits, chunk[1:])
        _, _, grads = model.backward(tape, dlogits)
        clstm.clip_grad_norm(grads, 1.0)
        optimizer.lr = schedule(step)
        optimizer.step(grads)
        losses.append(loss)
    assert losses[0] > 4.0
    assert np.mean(losses[-10:]) < 0.7  # nats; single characters without memory have 2.4


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex128", "nonsense", None, 3])
def test_layers_refuse_other_dtypes(dtype):
    for make in (clstm.Linear, clstm.Embedding):
        with pytest.raises(ValueError, match="but 'float32' or 'float64' is expected"):
            make(3, 2, dtype=dtype)


@pytest.mark.parametrize("part", [clstm.Linear(3, 2), clstm.Embedding(3, 2)], ids=lambda part: type(part).__name__)
def test_parts_refuse_what_is_no_tape(part):
    _, tape = part.forward([[0, 1, 2]])
    for wrong in (None, (tape,)):
        with pytest.raises(ValueError, match="^tape is .*, but one that this layer's forward returned is expected"):
            part.backward(wrong, np.zeros((1, 2)))

"""Schedules of the learning rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import clstm


def test_cosine_is_half_a_cosine():
    schedule = clstm.cosine(0.5, total_steps=12, final_lr=0.1)
    expected = {0: 0.5, 2: 0.3 + 0.1 * math.sqrt(3), 3: 0.3 + 0.1 * math.sqrt(2), 4: 0.4, 6: 0.3, 8: 0.2, 12: 0.1}
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-14)


@given(st.integers(1, 50), st.integers(0, 49), st.floats(0, 1))
def test_cosine_rises_to_lr_then_falls_to_final_lr(total_steps, warmup_steps, final_lr):
    warmup_steps = min(warmup_steps, total_steps - 1)
    schedule = clstm.cosine(1.0, total_steps, warmup_steps, final_lr)
    rates = [schedule(step) for step in range(total_steps + 3)]
    rise, fall = rates[:warmup_steps], rates[warmup_steps:]
    assert rise == [clstm.warmup(1.0, warmup_steps)(step) for step in range(warmup_steps)]
    assert all(rate > 0 for rate in rise) and rise == sorted(rise)
    assert fall[0] == 1.0
    assert fall == sorted(fall, reverse=True)
    assert rates[total_steps:] == pytest.approx([final_lr] * 3, abs=1e-15)


def test_constant_and_warmup():
    assert [clstm.constant(0.3)(step) for step in (0, 10**6)] == [0.3, 0.3]
    assert [clstm.warmup(0.5, 2)(step) for step in range(4)] == [0.25, 0.5, 0.5, 0.5]
    assert clstm.warmup(0.5, 0)(0) == 0.5


@pytest.mark.parametrize("warmup_steps", [-1, 10, 11])
def test_cosine_refuses_a_warmup_without_end(warmup_steps):
    with pytest.raises(ValueError, match=rf"warmup_steps is {warmup_steps}, but 0 to 9"):
        clstm.cosine(1.0, 10, warmup_steps)

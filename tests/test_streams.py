"""Row streams between layers against their twins and against closed forms of chains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.streams import needed_rows, stream
from tests import naive

times = st.integers(0, 50)


@st.composite
def streams(draw) -> tuple[list[int], list[int], list[int], int]:
    ready = draw(st.lists(times, max_size=8))
    blocks = draw(st.lists(st.tuples(st.integers(-1, len(ready) - 1), times), max_size=8))
    return ready, [need for need, _ in blocks], [work for _, work in blocks], draw(times)


@settings(max_examples=2000)
@given(streams())
def test_stream_equals_its_twin(case):
    start, end = stream(*case)
    assert (start.tolist(), end.tolist()) == naive.stream(*case)


@settings(max_examples=500)
@given(streams(), times)
def test_later_inputs_never_end_a_layer_earlier(case, delay):
    ready, need, work, latency = case
    end = stream(ready, need, work, latency)[1]
    later = stream([t + delay for t in ready], need, work, latency)[1]
    assert np.all(later >= end) and np.all(later <= end + delay)


@settings(max_examples=2000)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4))
def test_needed_rows_equals_its_twin(out_rows, in_rows, kernel, stride, padding):
    rows = needed_rows(out_rows, in_rows, kernel, stride, padding)
    assert rows.tolist() == naive.needed_rows(out_rows, in_rows, kernel, stride, padding)


def test_needed_rows_of_common_layers():
    assert needed_rows(4, 4, kernel=3, stride=1, padding=1).tolist() == [1, 2, 3, 3]
    assert needed_rows(2, 4, kernel=2, stride=2, padding=0).tolist() == [1, 3]
    assert needed_rows(3, 3, kernel=1, stride=1, padding=0).tolist() == [0, 1, 2]
    assert needed_rows(2, 5, kernel=1, stride=4, padding=2).tolist() == [-1, 2]


@pytest.mark.parametrize("num_layers", [1, 2, 7])
def test_chain_of_3x3_layers_fills_two_rows_a_layer(num_layers):
    """Equal layers: each starts two producer rows and one latency after the one before, then keeps pace."""
    rows, work, latency = 14, 1000, 130
    need = needed_rows(rows, rows, kernel=3, stride=1, padding=1)
    end = np.zeros(rows, dtype=np.int64)
    for layer in range(num_layers):
        start, end = stream(end, need, np.full(rows, work), latency)
        assert start.tolist() == [layer * (2 * work + latency) + row * work for row in range(rows)]
    assert end[-1] == (num_layers - 1) * (2 * work + latency) + rows * work + latency


def test_the_slower_layer_sets_the_pace():
    ready = np.arange(1, 11) * 100
    need = np.arange(10)
    assert stream(ready, need, np.full(10, 300), 7)[1][-1] == 100 + 10 * 300 + 7  # consumer-bound
    assert stream(ready, need, np.full(10, 30), 7)[1][-1] == 1000 + 30 + 7  # producer-bound


def test_a_dense_layer_waits_for_the_last_row():
    start, _ = stream([5, 9, 40], [2], [1], 0)
    assert start.tolist() == [40]


def test_times_beyond_32_bits_stay_exact():
    second_ps = 10**12
    start, end = stream([second_ps], [0, 0], [second_ps, 1], 1)
    assert start.tolist() == [second_ps, 2 * second_ps]
    assert end.tolist() == [2 * second_ps + 1, 2 * second_ps + 2]


def test_unknown_blocks_and_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must lie in -1\.\.0"):
        stream([1], [1], [1], 0)
    with pytest.raises(ValueError, match="must be equal"):
        stream([1], [0], [1, 1], 0)

"""Row hand-over between layers against its twin and against closed forms of chains."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.deploy.needs import needed_rows
from cimsim.events import Edge, Task, run
from tests.twins import naive


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
    need = tuple(needed_rows(rows, rows, kernel=3, stride=1, padding=1).tolist())
    chain = [Task("input", 1, 0, 0), Task("layer 1", rows, work, latency, (Edge(0, (0,) * rows),))]
    chain += [Task(f"layer {i + 1}", rows, work, latency, (Edge(i, need),)) for i in range(1, num_layers)]
    timeline = run(chain, pipelined=True)
    starts = [times.start_ps for times in timeline.tasks[1:]]
    assert starts == [layer * (2 * work + latency) for layer in range(num_layers)]
    assert timeline.latency_ps == (num_layers - 1) * (2 * work + latency) + rows * work + latency


@pytest.mark.parametrize(("work", "end"), [(300, 100 + 10 * 300 + 7), (30, 1000 + 30 + 7)])
def test_the_slower_layer_sets_the_pace(work, end):
    """Ten rows that come every 100 ps: the consumer's own pace, or the producer's, decides."""
    producer = Task("producer", 10, 100, 0)
    consumer = Task("consumer", 10, work, 7, (Edge(0, tuple(range(10))),))
    assert run([producer, consumer], pipelined=True).latency_ps == end

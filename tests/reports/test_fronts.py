"""Any two measures are a front: what is on it equals brute force, its line runs along what nothing beats."""

import shutil
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from reports import plot_front
from reports.canvas import Label, place_labels
from reports.frames import read_run
from reports.front import front_figure
from reports.measures import ACCURACY, BITS, ENERGY, LATENCY, MEASURES, Front
from reports.page import write_report
from reports.series import base_points, sides, steps
from tests.helpers.fake_run import write_run
from tests.helpers.result_rows import rows_of
from workloads.errors import InputError


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("front"), (0, 1))).results


def beats(front: Front, one: pd.Series, other: pd.Series) -> bool:
    """Nowhere worse, somewhere better."""
    signs = [1 if measure.better == "lower" else -1 for measure in (front.x, front.y)]
    gaps = [sign * (one[name] - other[name]) for sign, name in zip(signs, "xy", strict=True)]
    return max(gaps) <= 0 and min(gaps) < 0


@pytest.mark.parametrize(("x", "y"), list(permutations(MEASURES, 2)))
def test_nothing_beats_what_is_on_a_front(results, x, y):
    front = Front("any", "Any", MEASURES[x], MEASURES[y])
    points = base_points(results, front)
    for _, plans in points[points["kind"] == "search"].groupby("chip"):
        for _, plan in plans.iterrows():
            assert plan["on_front"] != any(beats(front, other, plan) for _, other in plans.iterrows())


@pytest.mark.parametrize(("x", "y"), [(ENERGY, ACCURACY), (ACCURACY, ENERGY), (ENERGY, LATENCY)])
def test_a_front_runs_along_the_edge_of_what_its_plans_beat(x, y):
    """No plan is better than the line in both measures, and some plan is nowhere worse."""
    entries = [("search", f"p{i}", 10.0 + i**2, 0.5 + 0.05 * i) for i in range(5)]
    table = rows_of(*entries).assign(latency_ns=[9.0, 7.0, 4.0, 3.0, 1.0])
    front = Front("any", "Any", x, y)
    points = base_points(table, front).sort_values("x")
    corners, plans = steps(points[points["on_front"]], x), points[["x", "y"]].to_numpy()
    assert corners[::2].tolist() == plans.tolist()
    line = np.concatenate([corners, (corners[1:] + corners[:-1]) / 2])
    worse_by = np.array([x.loss, y.loss]) * (line[:, None] - plans)  # than each plan, in both measures
    assert (worse_by.min(axis=2) <= 0).all()
    assert (worse_by.min(axis=2) == 0).any(axis=1).all()


def test_rows_without_a_measure_stand_on_no_front(results):
    front = Front("any", "Any", LATENCY, ACCURACY)
    some = results.assign(latency_ns=results["latency_ns"].where(results["chip"] == "isaac"))
    assert set(base_points(some, front)["chip"]) == {"isaac"}
    with pytest.raises(InputError, match="latency_ns, array_accuracy: empty in every row"):
        base_points(results.assign(latency_ns=0.0), front)


def test_ideal_arrays_and_the_float_network_belong_to_accuracy(results):
    for x, y, side in ((LATENCY, ACCURACY, "y"), (ACCURACY, LATENCY, "x")):
        front = Front("any", "Any", x, y)
        points = base_points(results, front)
        assert points[f"{side}_ideal"].tolist() == points["ideal_accuracy"].tolist()
        bounds = dict(zip("xy", (one.bound for one in sides(points, front)), strict=True))
        assert bounds.pop(side) == pytest.approx(0.914) and np.isnan([*bounds.values()]).all()
    assert base_points(results, Front("any", "Any", ENERGY, BITS))["y_ideal"].isna().all()


def test_a_front_more_is_a_section_more(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    for folder in ("costs", "plans"):  # their pictures take long
        shutil.rmtree(run / folder)
    monkeypatch.setattr("reports.page.FRONTS", (Front("bits", "Front of bits", BITS, ENERGY),))
    page = write_report(run).read_text()
    assert '<section id="bits"><h2>Front of bits</h2>' in page and '<a href="#bits">' in page
    assert "Stored bits per weight against energy per image." in page
    assert 'id="front-bits"' in page and (run / "figures/bits.pdf").stat().st_size > 1000


def test_a_measure_is_written_in_its_unit():
    assert [LATENCY.write(1500.0), BITS.write(2.5), ACCURACY.write(0.5)] == ["1.5 µs", "2.5", "50.00 %"]
    assert ENERGY.write_change(ENERGY.change(90.0, 100.0)) == "−10.0 %"
    assert ACCURACY.write_change(ACCURACY.change(0.89, 0.9)) == "−1.00 points"
    assert LATENCY.axis(2e6) == (1e6, "latency of one image (ms)")
    assert BITS.axis(4.0) == (1.0, "stored bits per weight")


def test_pictures_are_the_same_bytes_every_time(results, tmp_path):
    ends = (".png", ".svg", ".pdf")
    first, again = (front_figure(results, tmp_path / name, ends=ends) for name in ("first", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_plot_front_draws_your_own_rows(tmp_path):
    rows = [{"energy_pj": 10.0**i, "array_accuracy": 0.8 + i / 50} for i in range(4)]
    assert [file.suffix for file in plot_front(rows, tmp_path / "own")] == [".png", ".svg"]
    assert plot_front([row | {"chip": "mine"} for row in rows], tmp_path / "own.pdf")[0].stat().st_size > 1000
    with pytest.raises(InputError, match=r"row 2.array_accuracy: missing: must be a number"):
        plot_front([rows[0], {"energy_pj": 1.0}], tmp_path / "own.png")
    with pytest.raises(InputError, match="at least one evaluation"):
        plot_front([], tmp_path / "own.png")


def test_plot_front_draws_any_two_measures(tmp_path):
    rows = [{"latency_ns": 10.0**i, "bits_per_weight": 8.0 - i} for i in range(4)]
    (path,) = plot_front(rows, tmp_path / "own.svg", x="latency_ns", y="bits_per_weight")
    assert path.stat().st_size > 1000
    with pytest.raises(InputError, match=r"row 1.energy_pj: missing"):
        plot_front(rows, path, y="bits_per_weight")
    with pytest.raises(InputError, match=r"rows: y = beauty: must be one of energy_pj, latency_ns"):
        plot_front(rows, path, y="beauty")


def test_labels_do_not_overlap_each_other():
    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    spots = np.array([(0.5 + 0.01 * i, 0.5) for i in range(8)])
    place_labels(axes, [Label(x, y, f"uniform lin {i}", "black") for i, (x, y) in enumerate(spots)], spots)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(note) for note in axes.texts]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(a.overlaps(b) for a, b in pairs)

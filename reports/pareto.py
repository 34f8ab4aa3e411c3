"""The non-dominated front of cost against value, with the area it dominates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Mask (N,) of the points that no other beats: lower `cost` and higher `value` are better.

    Equal points are kept together; a point with NaN is never on the front.
    """
    costs, values = np.asarray(cost, float), np.asarray(value, float)
    mask = np.zeros(costs.shape, bool)
    best, best_cost = -np.inf, -np.inf
    for i in np.lexsort((-values, costs)):
        if np.isnan(costs[i]) or np.isnan(values[i]):
            continue
        if values[i] > best or (values[i] == best and costs[i] == best_cost):
            mask[i], best, best_cost = True, values[i], costs[i]
    return mask


def hypervolume(cost: ArrayLike, value: ArrayLike, reference: tuple[float, float]) -> float:
    """Area between the front and `reference` = (worst cost, worst value), in units of cost x value.

    Points that are worse than the reference in either direction add nothing.
    """
    costs, values = np.asarray(cost, float), np.asarray(value, float)
    worst_cost, worst_value = reference
    keep = front(costs, values) & (costs < worst_cost) & (values > worst_value)
    order = np.argsort(costs[keep], kind="stable")
    edges = np.append(costs[keep][order], worst_cost)
    return float(np.sum(np.diff(edges) * (values[keep][order] - worst_value)))

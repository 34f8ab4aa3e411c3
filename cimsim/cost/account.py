"""A finished simulation, ready to be priced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cimsim.components.base import Activity
from cimsim.cost.prices import Prices
from cimsim.deploy.deployment import Deployment
from cimsim.events import Timeline

Activities = Mapping[str, Activity]  # by layer


class Account(NamedTuple):
    """A deployment, its simulation, and the terms: how many images share one weight load and at what prices."""

    deployment: Deployment
    timeline: Timeline
    images_per_load: float
    activity: Activities
    prices: Prices

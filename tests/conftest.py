"""One place for what every test shares: hypothesis repeats exactly, torch uses one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

from qat import repeatable  # noqa: F401  before any test loads torch

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("repeatable")

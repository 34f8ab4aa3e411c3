"""How a format is trained: assignment, estimator, initialisation. The simulator never sees it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from workloads.errors import InputError
from workloads.format import WeightFormat
from workloads.layer import Frozen


class Recipe(Frozen):
    """One way to train. Each kind of format reads its own fields and ignores the others."""

    # Linear formats.
    linear: Literal["lsq", "ewgs", "dorefa"] = "lsq"
    ewgs_factor: float = Field(default=1e-3, ge=0, le=1)  # delta: how much the rounding error turns the gradient
    ewgs_delta: Literal["fixed", "hessian"] = "fixed"  # hessian: from its trace, once per epoch, as published
    step_init: Literal["lsq", "search"] = "lsq"  # search: the least squared error, for use without training

    # Activations.
    activation: Literal["lsq", "pact", "dorefa", "ewgs", "token"] = "lsq"
    calibration: Literal["search", "aciq", "sigma"] = "search"  # least squared error, closed form, 3 deviations
    pact_decay_factor: float = Field(default=1e-4, ge=0)  # of the loss term on PACT's bound, half its square

    # Codebook formats.
    vector: Literal["top1", "dkm", "gumbel", "universal"] = "top1"
    assignment: Literal["cosine", "euclid"] = "cosine"  # euclid: of index and scale code together
    estimator: Literal["identity", "softmax", "ewgs", "none"] = "identity"  # gradient through the hard choice
    codebook: Literal["gradient", "ema", "frozen"] = "gradient"
    ema_momentum: float = Field(default=0.99, gt=0, lt=1)
    revival: bool = True
    init: Literal["kmeans++", "sr-kmeans", "random"] = "kmeans++"
    temperature: float = Field(default=0.1, gt=0)  # of softmax (of cosines), DKM and Gumbel (of squared distances)
    iterations: int = Field(default=5, ge=1, le=100)  # of DKM
    candidates: int = Field(default=8, ge=2, le=256)  # of a vector, in a universal codebook
    freeze_ratio: float = Field(default=0.9999, gt=0.5, lt=1)  # at which a vector's choice is final

    # Lattice formats.
    overload: Literal["saturate", "wrap"] = "saturate"  # wrap: a baseline, far off where a block is overloaded
    lattice_scale: Literal["search", "learned", "sigma"] = "search"  # sigma: C_b deviations, as first published
    max_overload_ratio: float = Field(default=1.0, gt=0, le=1)  # share of overloaded blocks above which scales grow

    # What training does between steps, and how fast ratios of a universal codebook learn beside weights.
    after_every: int = Field(default=50, ge=1)  # steps between two calls of `qat.after_step`
    ratio_lr_factor: float = Field(default=100.0, gt=0)

    # What the float network teaches in fine-tuning, as terms of the loss (qat.training.distill).
    distill_factor: float = Field(default=0.0, ge=0, le=100)  # of its outputs
    block_distill_factor: float = Field(default=0.0, ge=0, le=100)  # of the outputs of its blocks

    # What weights bear in training, so that they bear it in cells (qat.kernels.noise), as a part of a layer's largest.
    weight_noise_fraction: float = Field(default=0.0, ge=0, le=1)

    # Pool formats.
    rematch_every: int = Field(default=100, ge=1)  # steps between two assignments of pool columns

    def scheme(self, fmt: WeightFormat) -> str:
        """The key in `qat.schemes.SCHEMES` of the class that trains `fmt` this way."""
        return {"linear": self.linear, "vq": self.vector}.get(fmt.kind, fmt.kind)


# The recipes people know by name; `cimsim train --recipe NAME` takes these.
RECIPES = {
    "default": Recipe(),
    "lsq": Recipe(linear="lsq"),
    "ewgs": Recipe(linear="ewgs", estimator="ewgs", activation="ewgs", calibration="sigma"),
    "ewgs-hessian": Recipe(
        linear="ewgs", estimator="ewgs", activation="ewgs", calibration="sigma", ewgs_delta="hessian"
    ),
    "lsq-kd": Recipe(linear="lsq", distill_factor=1.0),
    "dorefa": Recipe(linear="dorefa"),
    "searched-step": Recipe(step_init="search"),
    "pact": Recipe(activation="pact"),
    "dorefa-activation": Recipe(activation="dorefa"),
    "token": Recipe(activation="token"),
    "aciq": Recipe(calibration="aciq"),
    "cosine": Recipe(assignment="cosine"),
    "euclid": Recipe(assignment="euclid"),
    "softmax": Recipe(estimator="softmax"),
    "hard": Recipe(estimator="none"),
    "ema": Recipe(assignment="euclid", codebook="ema", ema_momentum=0.9, after_every=5),
    "dkm": Recipe(vector="dkm", assignment="euclid", codebook="frozen", after_every=1),
    "gumbel": Recipe(vector="gumbel", assignment="euclid", codebook="frozen", after_every=1),
    "universal": Recipe(vector="universal", assignment="euclid", codebook="frozen", revival=False, after_every=1),
    "vq4all": Recipe(
        vector="universal",
        assignment="euclid",
        codebook="frozen",
        revival=False,
        after_every=1,
        block_distill_factor=1.0,
    ),
    "noisy": Recipe(weight_noise_fraction=0.05),
    "untrained": Recipe(step_init="search", assignment="euclid"),  # least squared error at once
    "wrap": Recipe(overload="wrap"),
    "sigma": Recipe(lattice_scale="sigma"),
    "learned-scale": Recipe(lattice_scale="learned"),
    "low-overload": Recipe(max_overload_ratio=0.01),
}

DEFAULT, UNTRAINED = RECIPES["default"], RECIPES["untrained"]


def parse_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises InputError that lists the known ones."""
    if name not in RECIPES:
        raise InputError("recipe", [f"{name}: must be one of {', '.join(RECIPES)}"])
    return RECIPES[name]


def described() -> list[tuple[str, str]]:
    """(name, what differs from the default) of every recipe."""
    return [(name, ", ".join(f"{key} {value}" for key, value in recipe if value != getattr(DEFAULT, key)) or "nothing")
            for name, recipe in RECIPES.items()]  # fmt: skip

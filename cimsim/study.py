"""A study: one YAML that names network, data, chips, formats and budgets; its result is a run directory."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cimsim.spec import Chip, load_chip
from workloads.datasets import TRAIN_IMAGES
from workloads.errors import InputError, problems_of
from workloads.format import DEFAULT_FORMATS, parse_format
from workloads.layer import Frozen, Network
from workloads.shapes import load_network

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=2)]


class ChipChoice(Frozen):
    """One chip of the study. `vary` lists values per knob (`adc.bits: [5, 6]`), tried one knob at a time."""

    chip: str
    vary: dict[str, list[int | float]] = {}
    budgets: tuple[Fraction, ...] | None = None  # overrides the study's

    def variants(self) -> list[dict[str, Any]]:
        """Each listed value alone, all other knobs at the chip's own."""
        return [{knob: value} for knob, values in self.vary.items() for value in values]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the listed values."""
        return [dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())]


class Weights(Frozen):
    """How much each cost above its budget counts in the search loss, against the task loss."""

    energy: float = Field(default=1.0, ge=0, le=100)
    latency: float = Field(default=0.0, ge=0, le=100)
    area: float = Field(default=0.0, ge=0, le=100)


class Training(Frozen):
    """Images seen in each stage, and step sizes."""

    float_epochs: Positive = 8
    warm_images: Positive = 20_000
    search_images: Positive = 60_000
    tune_images: Positive = 150_000
    batch: Positive = 128
    float_lr: float = Field(default=3e-3, gt=0, le=1)
    tune_lr: float = Field(default=1e-3, gt=0, le=1)
    arch_lr: float = Field(default=0.05, gt=0, le=1)
    calibration_images: Positive = 512
    test_images: Positive = 10_000


class Study(Frozen):
    """Everything a run needs, resolved: the same study and code give the same results."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    network: str
    data: str
    chips: tuple[ChipChoice, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    formats: tuple[str, ...] = Field(default=DEFAULT_FORMATS, min_length=1)
    baselines: tuple[str, ...] = ("linear-8", "linear-4", "linear-2", "vq-4x256-e4-s0")
    budgets: tuple[Fraction, ...] = Field(default=(0.3, 0.4, 0.5, 0.65, 0.8), min_length=1)
    objective: Weights = Weights()
    latency_budget: Fraction | None = None  # share of the slowest plan's, or free
    area_budget: Fraction | None = None  # share of the largest plan's arrays, or free
    first_last: str | None = None  # a format that holds the first and last layer, or free
    activation_bits: int = Field(default=8, ge=2, le=8)
    images_per_weight_load: float | None = Field(default=None, ge=1)
    train: Training = Training()
    workers: int = Field(default=2, ge=1, le=64)

    @field_validator("formats", "baselines")
    @classmethod
    def _known_formats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            parse_format(name)
        return names

    @field_validator("data")
    @classmethod
    def _known_data(cls, name: str) -> str:
        if name not in TRAIN_IMAGES:
            raise ValueError(f"unknown data set: known are {', '.join(TRAIN_IMAGES)}")
        return name

    @field_validator("first_last")
    @classmethod
    def _known_first_last(cls, name: str | None) -> str | None:
        if name is not None:
            parse_format(name)
        return name

    @model_validator(mode="after")
    def _chips_are_distinct(self) -> Study:
        names = [choice.chip for choice in self.chips]
        if len(set(names)) < len(names):
            raise ValueError(f"chips = {names}: each chip once (give several values under `vary`)")
        return self

    def budgets_of(self, choice: ChipChoice) -> tuple[float, ...]:
        return choice.budgets or self.budgets

    def held_layers(self, network: Network) -> dict[str, str]:
        """Layers whose format is not free: the first and the last, if the study says so."""
        if self.first_last is None:
            return {}
        return {network.layers[0].name: self.first_last, network.layers[-1].name: self.first_last}

    def load_network(self) -> Network:
        return load_network(self.network)

    def dump(self) -> str:
        """The resolved study as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_study(path: Path) -> Study:
    """Read and check a study, its network, chips and variants. Raises InputError with all problems at once."""
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(str(path), [f"is not YAML: {str(error).splitlines()[0]}"]) from None
    if not isinstance(raw, dict):
        raise InputError(str(path), ["must be a mapping of keys (see `cimsim init study`)"])
    try:
        study = Study(**raw)
    except ValidationError as error:
        raise InputError(str(path), problems_of(error)) from None
    except TypeError as error:
        raise InputError(str(path), [str(error)]) from None
    problems = _reference_problems(study)
    if problems:
        raise InputError(str(path), problems)
    return study


def _reference_problems(study: Study) -> list[str]:
    """What the study names must exist: its network, chips and every varied chip."""
    problems = _problems_of(lambda: study.load_network(), "network")
    for i, choice in enumerate(study.chips):
        broken = _problems_of(lambda c=choice: load_chip(c.chip), f"chips.{i}.chip")
        problems += broken
        for variant in choice.variants() if not broken else []:
            problems += _problems_of(lambda c=choice, v=variant: load_chip(c.chip, v), f"chips.{i}.vary")
    return problems


def _problems_of(attempt, where: str) -> list[str]:
    try:
        attempt()
    except InputError as error:
        return [f"{where}: {problem}" for problem in str(error).splitlines()]
    return []


def study_schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors."""
    return Study.model_json_schema()

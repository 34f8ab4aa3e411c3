"""A study: one YAML that names network, data, chips, formats and budgets; its result is a run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from cimsim.chip.reading import load_chip
from cimsim.studies.proposals import one_by_one, propose
from workloads.activation import ActivationName
from workloads.data.datasets import TRAIN_IMAGES
from workloads.errors import InputError, problems_of
from workloads.format import DEFAULT_FORMATS, parse_format
from workloads.layer import Frozen, Network
from workloads.shapes import load_network, network_names
from workloads.yamlfile import read_mapping

INPUT_SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28)}  # channels, height, width of one image
ARCH_SHARE = 10  # the smallest part of the training images is a tenth of the largest


def _some_once(values: Sequence[Any]) -> Sequence[Any]:
    """At least one value, and none twice: equal ones would share a result's name."""
    if not values:
        raise ValueError("must have at least one value")
    names = [f"{v:g}" if isinstance(v, float) else str(v) for v in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"must have each value once, but {', '.join(twice)} is repeated")
    return values


def _check_loads(load: Callable[..., object], *attempts: tuple) -> None:
    """Loading is the check; what is wrong is told under the key that names the file."""
    problems: list[str] = []
    for arguments in attempts:
        try:
            load(*arguments)
        except InputError as error:
            problems += error.problems
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))


def _known_format(name: str) -> str:
    return parse_format(name).name  # one format, one name


Positive = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3)]  # wide, and yet no overflow in float32
Rate = Annotated[float, Field(gt=0)]  # unbounded: a rate that is too high ends in a message, not in a wrong result
Fraction = Annotated[float, Field(gt=0, le=2)]
Fractions = Annotated[tuple[Fraction, ...], AfterValidator(_some_once)]
Format = Annotated[str, AfterValidator(_known_format)]
Formats = Annotated[tuple[Format, ...], AfterValidator(_some_once)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ChipChoice(Frozen):
    """One chip of the study. `vary` lists values per knob (`adc.bits: [5, 6]`)."""

    chip: str
    vary: dict[str, Annotated[list[int | float], AfterValidator(_some_once)]] = {}
    budgets: Fractions | None = None  # overrides the study's

    @field_validator("chip")
    @classmethod
    def _known_chip(cls, name: str) -> str:
        _check_loads(load_chip, (name,))
        return name

    @field_validator("vary")
    @classmethod
    def _possible_chips(cls, vary: dict[str, list[int | float]], info: ValidationInfo) -> dict[str, list[int | float]]:
        if "chip" in info.data:
            _check_loads(load_chip, *((info.data["chip"], variant) for variant in one_by_one(vary)))
        return vary

    def variants(self) -> list[dict[str, int | float]]:
        """Each listed value alone, all other knobs at the chip's own."""
        return one_by_one(self.vary)


class Sweep(Frozen):
    """Who says which settings of a chip's knobs `cimsim sweep` tries."""

    sampler: Literal["grid", "one_by_one", "random"] = "grid"
    samples: int = Field(default=20, ge=1, le=1_000_000)  # a chip, where chance takes them from the grid
    seed: Seed = 0

    def settings(self, choice: ChipChoice) -> list[dict[str, int | float]]:
        """Of one chip, its own left out."""
        return propose(self.sampler, choice.vary, self.samples, self.seed)


class Multipliers(Frozen):
    """How much each cost above its budget counts in the search loss, against the task loss."""

    energy: float = Field(default=1.0, ge=0, le=100)
    latency: float = Field(default=0.0, ge=0, le=100)
    area: float = Field(default=0.0, ge=0, le=100)


TRIAL_SHARE = 8  # of fine-tuning, for a trial of a plan


class Training(Frozen):
    """Images seen in each stage, and step sizes."""

    float_epochs: Positive = 8
    warm_images: Positive = 20_000
    search_images: Positive = 60_000
    tune_images: Positive = 150_000
    batch: Positive = 128
    float_lr: Rate = 3e-3
    tune_lr: Rate = 1e-3
    arch_lr: Rate = 0.05
    temperature: tuple[Temperature, Temperature] = (1.0, 1.0)  # of formats' probabilities, when a search starts, ends
    distill_factor: float = Field(default=0.0, ge=0, le=100)  # in fine-tuning, of the float network's outputs
    weight_noise_fraction: float = Field(
        default=0.0, ge=0, le=1
    )  # in fine-tuning, as a part of a layer's largest weight
    calibration_images: Positive = 512
    selection_images: Positive = 2_000  # of the validation images, to compare plans in the supernet
    trials: int = Field(default=12, ge=0, le=1000)  # plans of a search that are trained a little, to compare them
    test_images: Positive = 10_000

    @property
    def trial_images(self) -> int:
        """Images that a trial sees."""
        return max(self.batch, self.tune_images // TRIAL_SHARE)


def _distinct_chips(choices: tuple[ChipChoice, ...]) -> tuple[ChipChoice, ...]:
    _some_once([choice.chip for choice in choices])
    return choices


class Study(Frozen):
    """Everything a run needs, resolved: the same study and code give the same results."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # also the run directory's
    network: str
    data: str
    chips: Annotated[tuple[ChipChoice, ...], AfterValidator(_distinct_chips)]
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_some_once)] = (0,)
    formats: Formats = DEFAULT_FORMATS
    baselines: tuple[Format, ...] = ("linear-8", "linear-4", "linear-2", "vq-4x256-e4-s0")
    budgets: Fractions = (0.3, 0.4, 0.5, 0.65, 0.8)
    objective: Multipliers = Multipliers()
    random_plans: int = Field(default=0, ge=0, le=1000)  # per chip and budget, trained like the searched ones
    latency_budget: Fraction | None = None  # share of the slowest plan's, or free
    area_budget: Fraction | None = None  # share of the largest plan's arrays, or free
    first_last: Format | None = None  # the format of the first and last layer, or free
    activation: ActivationName = "int8"
    images_per_weight_load: float | None = Field(default=None, ge=1, allow_inf_nan=True)  # inf: loaded once
    sweep: Sweep = Sweep()
    train: Training = Training()
    workers: int = Field(default=2, ge=1, le=64)

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        _check_loads(load_network, (name,))
        return name

    @field_validator("data")
    @classmethod
    def _known_data(cls, name: str) -> str:
        if name not in TRAIN_IMAGES:
            raise ValueError(f"unknown data set: known are {', '.join(TRAIN_IMAGES)}")
        return name

    def budgets_of(self, choice: ChipChoice) -> tuple[float, ...]:
        return choice.budgets or self.budgets

    def fixed_formats(self, network: Network) -> dict[str, str]:
        """Layers whose format is not free: the first and the last, if the study says so."""
        if self.first_last is None:
            return {}
        return {network.layers[0].name: self.first_last, network.layers[-1].name: self.first_last}

    def load_network(self) -> Network:
        return load_network(self.network)

    def dump(self) -> str:
        """The resolved study as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_study(path: Path, for_training: bool = False) -> Study:
    """Read and check a study, its network, chips and variants. Raises InputError with all problems at once.

    `for_training` also asks what a sweep never looks at (see `training_problems`).
    """
    raw = read_mapping(path, "name, network, data, chips, ... (`cimsim init study` writes one)")
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise InputError(str(path), problems_of(error, Study)) from None
    if for_training and (problems := training_problems(study)):
        raise InputError(str(path), problems)
    return study


def training_problems(study: Study) -> list[str]:
    """Whether the network takes the images of the data, and each of their parts is a batch or more."""
    problems: list[str] = []
    shape, images = study.load_network().input_shape, INPUT_SHAPES.get(study.data)
    if images and shape != images:
        fitting = ", ".join(name for name in network_names() if load_network(name).input_shape == images)
        text = f"takes images of {shape}, those of {study.data} are {images} (networks for these: {fitting})"
        problems.append(f"network = {study.network!r}: {text}")
    bound = TRAIN_IMAGES[study.data] // ARCH_SHARE
    if study.train.batch > bound:
        problems.append(f"train.batch = {study.train.batch}: must be <= {bound}, the smallest part of {study.data}")
    return problems


def study_schema() -> dict[str, Any]:
    """JSON schema of a study file, for editors."""
    return Study.model_json_schema()

"""One trial: a network trained in float, quantized in one format by one recipe, fine-tuned and tested. Resumable.

A trial is a few numbers and names; its result is one JSON file, the same bytes however often it was killed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, ValidationError
from torch import nn

from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.measure import read_test
from cimsim.studies.study import INPUT_SHAPES, Training
from qat.modules.attached import attached, encode_model
from qat.recipe import RECIPES
from qat.storage.freeze import freeze, summary
from qat.storage.frozen_file import save_frozen
from qat.training.checkpoint import load_checkpoint
from qat.training.data import Split, TrainingData, training_data
from qat.training.loop import Tick, score, train_float
from qat.training.tune import tune
from workloads.activation import ActivationName
from workloads.errors import InputError, problems_of
from workloads.format import parse_format
from workloads.layer import Frozen
from workloads.networks.zoo import NETWORKS, build
from workloads.plan import Plan
from workloads.store import content_key, write_atomically

DATA = {**INPUT_SHAPES, "movie": "words", "wordnet": "words"}
WORDS = {"text_transformer": "movie", "text_transformer_wordnet": "wordnet"}  # their classes are their data's
FLOAT = "float"  # the format of a trial that is not quantized


def known_format(name: str) -> str:
    return name if name == FLOAT else parse_format(name).name


def known_recipe(name: str) -> str:
    if name not in RECIPES:
        raise ValueError(f"must be one of {', '.join(RECIPES)}")
    return name


class Trial(Frozen):
    """What is trained, and how."""

    network: str
    data: str
    format: Annotated[str, AfterValidator(known_format)] = FLOAT
    recipe: Annotated[str, AfterValidator(known_recipe)] = "default"
    seed: int = Field(default=0, ge=0, lt=2**31)
    rules: dict[str, str] = {}  # layers by name pattern -> a format of their own, or `float`
    activation: ActivationName = "int8"
    train: Training = Training()

    @property
    def key(self) -> str:
        return f"{self.network}-{self.format}-{self.recipe}-{self.seed}-{content_key(self.model_dump())}"

    @property
    def float_key(self) -> str:
        """Trials of one network, data and float training start from the same float network."""
        train = self.train
        return f"{self.network}-{content_key(self.data, train.float_epochs, train.batch, train.float_lr)}-{self.seed}"

    def plan(self, model: nn.Module) -> Plan:
        """The plan of the quantized network. Raises InputError for a rule that names no layer."""
        skip = [pattern for pattern, fmt in self.rules.items() if fmt == FLOAT]
        rules = {pattern: fmt for pattern, fmt in self.rules.items() if fmt != FLOAT}
        try:
            return Plan.uniform(model, self.format, skip, rules, activation=self.activation)
        except ValueError as error:
            raise InputError("rules", [str(error)]) from None


def trial_of(network: str, data: str | None, images: int, float_epochs: int, **choices: Any) -> Trial:
    """A trial from what a command line says. Raises InputError."""
    usual = {shape: name for name, shape in reversed(DATA.items())}
    known = NETWORKS.get(network)
    data = data or WORDS.get(network) or usual.get(known.input_shape if known else None, "fashion_mnist")
    train: dict[str, Any] = {
        "float_epochs": float_epochs,
        "tune_images": images,
        "batch": 64 if data == "digits" else 128,
    }
    try:
        trial = Trial(network=network, data=data, train=Training(**train), **choices)
    except ValidationError as error:
        raise InputError("train", problems_of(error, Trial)) from None
    check(trial)
    return trial


def check(trial: Trial) -> None:
    """Raises InputError for a network or data set that is unknown, or does not fit the other."""
    problems = []
    if trial.network not in NETWORKS:
        problems.append(f"network = {trial.network!r}: must be one of {', '.join(NETWORKS)}")
    if trial.data not in DATA:
        problems.append(f"data = {trial.data!r}: must be one of {', '.join(DATA)}")
    if not problems:
        shape, wanted = NETWORKS[trial.network].input_shape, DATA[trial.data]
        words = WORDS.get(trial.network)
        if words != trial.data and (words or wanted == "words" or shape != wanted):
            fitting = [name for name, own in WORDS.items() if own == trial.data]
            fitting = fitting or [name for name, known in NETWORKS.items() if known.input_shape == wanted]
            problems.append(
                f"data = {trial.data!r}: does not fit {trial.network}" + (f" (fits {fitting})" if fitting else "")
            )
    if problems:
        raise InputError("train", problems)


def run_trials(trials: list[Trial], folder: Path, workers: int = 1) -> list[dict[str, Any]]:
    """The results of all trials, in their order; what the folder holds already is not done again."""
    for trial in trials:
        check(trial)
    for name in ("results", "checkpoints", "weights"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    run_jobs(_jobs(trials, folder), workers, folder)
    return [json.loads(_result(folder, trial).read_text()) for trial in trials]


def _jobs(trials: list[Trial], folder: Path) -> list[Job]:
    floats = {trial.float_key: trial for trial in trials}
    once = {trial.key: trial for trial in trials}
    return [
        *(Job(key, (), _float_images(trial), _float, (trial, folder),
              (_float_path(folder, trial), _tested(folder, trial))) for key, trial in floats.items()),
        *(Job(key, (trial.float_key,), trial.train.tune_images, _quantized, (trial, folder),
              (_result(folder, trial),)) for key, trial in once.items()),
    ]  # fmt: skip


def _result(folder: Path, trial: Trial) -> Path:
    return folder / f"results/{trial.key}.json"


def weights_path(folder: Path, trial: Trial) -> Path:
    """The file of the frozen network, which `qat.storage.frozen_file.load_frozen` reads."""
    return folder / f"weights/{trial.key}.safetensors"


def _float_images(trial: Trial) -> int:
    return trial.train.float_epochs * len(training_data(trial.data).train.y)


def _float(trial: Trial, folder: Path, tick: Tick) -> None:
    """Trained, and tested once for all trials that start from it."""
    tested = _tested(folder, trial)
    tested.unlink(missing_ok=True)  # of a checkpoint that is there no more
    model = build(trial.network, trial.seed)
    train_float(model, training_data(trial.data), trial.train, trial.seed,
                checkpoint=_float_path(folder, trial), tick=tick)  # fmt: skip
    write_atomically(tested, json.dumps({"accuracy": _test(model, trial, folder, trial.float_key)}).encode())


def _float_path(folder: Path, trial: Trial) -> Path:
    return folder / f"checkpoints/{trial.float_key}.pt"


def _tested(folder: Path, trial: Trial) -> Path:
    return folder / f"checkpoints/{trial.float_key}.json"


def float_network(trial: Trial, folder: Path) -> nn.Module:
    """The float network that the trial starts from."""
    model = build(trial.network, trial.seed)
    model.load_state_dict(load_checkpoint(_float_path(folder, trial))["model"])
    return model


def _quantized(trial: Trial, folder: Path, tick: Tick) -> None:
    data, model = training_data(trial.data), float_network(trial, folder)
    tested = json.loads(_tested(folder, trial).read_text())
    row: dict[str, Any] = {"key": trial.key, **trial.model_dump(), "float_accuracy": tested["accuracy"]}
    if trial.format != FLOAT:
        row |= _tuned(trial, folder, data, model, tick)
    write_atomically(_result(folder, trial), (json.dumps(row, indent=1, sort_keys=True) + "\n").encode())


def _tuned(trial: Trial, folder: Path, data: TrainingData, model: nn.Module, tick: Tick) -> dict[str, Any]:
    checkpoint = folder / f"checkpoints/{trial.key}.pt"
    how = {"recipe": RECIPES[trial.recipe], "checkpoint": checkpoint, "tick": tick}
    plan = trial.plan(model)
    found = tune(model, plan, data, trial.train, trial.seed, **how)
    rows = summary(model.eval())
    weights = sum(int(row["weights"]) for row in rows)
    row = {
        "validation_accuracy": found,
        "accuracy": _test(model, trial, folder, trial.key),
        "stored_bits_per_weight": 8 * stored_bytes(model) / weights,
        "relative_error": sum(float(row["relative_error"]) * int(row["weights"]) for row in rows) / weights,
    }
    for name in ("used_share", "perplexity", "overload_share", "frozen_share"):
        values = [float(row[name]) for row in rows if name in row]
        if values:
            row[name] = sum(values) / len(values)
    bits = {name: layer.activation for name, layer in plan.layers.items()}
    save_frozen(freeze(model), weights_path(folder, trial), trial.recipe, bits)
    checkpoint.unlink(missing_ok=True)
    return row


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all quantized weights as stored; a codebook that layers share counts once."""
    books = {id(getattr(one.quantizer, "book", None)): one.quantizer.fmt for one in attached(model)}
    encoded = encode_model(model)
    own = sum(layer.nbytes - -(-layer.fmt.codebook_bits // 8) for layer in encoded.values())
    return own + sum(-(-fmt.codebook_bits // 8) for fmt in books.values())


def _test(model: nn.Module, trial: Trial, folder: Path, purpose: str) -> float:
    x, y = read_test(trial.data, folder / "test_reads.jsonl", purpose, trial.train.test_images)
    return score(model, Split(torch.from_numpy(x), torch.from_numpy(y))).accuracy

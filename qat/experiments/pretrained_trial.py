"""`cimsim train` of networks with published weights: one trial, its files, and its row on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.meter import IMAGES_PER_BYTE
from qat.experiments.pretrained import Choice, Progress, distance, judged, measured
from qat.experiments.tasks import BATCH, TASKS, require
from qat.experiments.trial import FLOAT, known_format, known_recipe
from qat.post_training.ptq import Method
from qat.training.loop import Tick
from workloads.errors import InputError, problems_of
from workloads.layer import Frozen
from workloads.store import content_key, write_atomically

PUBLISHED = {"efficientnet_lite0": "lite0", "minilm": "minilm"}  # name -> its task
USUAL_STEPS = 60
TIMES = ("seconds", "step_seconds")  # of a measurement: they differ from run to run
COLUMNS = ("network", "format", "start", "recipe", "steps", "bits/weight", "error", "before", "after",
           "distance before", "distance after")  # fmt: skip


class PublishedTrial(Frozen):
    """What is quantized and trained, and how."""

    network: str
    format: Annotated[str, AfterValidator(known_format)] = FLOAT
    recipe: Annotated[str, AfterValidator(known_recipe)] = "default"
    start: Method = "nearest"
    steps: int = Field(default=USUAL_STEPS, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @property
    def key(self) -> str:
        return f"{self.network}-{self.format}-{self.recipe}-{self.seed}-{content_key(self.model_dump())}"

    @property
    def weights(self) -> str:
        """The file of the frozen network, of whose layers those with 8 bits are in float."""
        return "" if self.format == FLOAT else f"weights/{self.key}.safetensors"

    @property
    def choice(self) -> Choice:
        steps = 0 if self.format == FLOAT else self.steps
        return Choice(self.format, self.start, self.recipe, steps=steps, seed=self.seed)


def published_trial(network: str, data: str | None, images: int | None, **choices: Any) -> PublishedTrial:
    """A trial from what a command line says; `images` are as many steps as fill them. Raises InputError."""
    if data is not None:
        raise InputError("train", [f"data = {data!r}: {network} has data of its own (photographs, film reviews)"])
    steps = USUAL_STEPS if images is None else max(1, images // BATCH[PUBLISHED[network]])
    try:
        return PublishedTrial(network=network, steps=steps, **choices)
    except ValidationError as error:
        raise InputError("train", problems_of(error, PublishedTrial)) from None


def run_published(trial: PublishedTrial, folder: Path) -> dict[str, Any]:
    """The trial's result; what the folder holds already is not done again, and a killed run goes on."""
    result = folder / f"results/{trial.key}.json"
    job = Job(trial.key, (), trial.choice.steps * IMAGES_PER_BYTE, _run, (trial, folder), (result,))
    if not job.is_done:
        require()
        for name in ("results", "checkpoints", "weights"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    run_jobs([job], 1, folder)
    return json.loads(result.read_text())


def _run(trial: PublishedTrial, folder: Path, tick: Tick) -> None:
    checkpoint = folder / f"checkpoints/{trial.key}.pt"
    weights = folder / trial.weights if trial.weights else None
    found = measured(trial.choice, TASKS[PUBLISHED[trial.network]](folder), Progress(checkpoint, tick, weights))
    row = {"key": trial.key, **trial.model_dump(), **{name: v for name, v in found.items() if name not in TIMES}}
    write_atomically(folder / f"results/{trial.key}.json", (json.dumps(row, indent=1, sort_keys=True) + "\n").encode())
    checkpoint.unlink(missing_ok=True)


def cells(row: dict[str, Any]) -> list[Any]:
    """A result as a line of `COLUMNS`."""
    before = row.get("untrained", row)
    bits = f"{8 * row['bytes'] / row['weights']:.3f}" if row["weights"] else "32"
    how = (row[name] for name in ("network", "format", "start", "recipe", "steps"))
    error = f"{row.get('relative_error', 0):.3g}"
    return [*how, bits, error, judged(before), judged(row), distance(before), distance(row)]

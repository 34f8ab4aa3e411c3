"""simulate(): the story in four steps: place the layers, count their work, wait for each other, price it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from numpy.typing import NDArray

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.cost import accounts
from cimsim.cost.account import Account, Activities
from cimsim.cost.prices import Prices
from cimsim.cost.report import CostReport
from cimsim.dataflow import LayerWork
from cimsim.dataflow.place import Unmappable
from cimsim.dataflow.work import duplicated
from cimsim.deploy.deployment import Deployment, Layout, deploy, is_resident
from cimsim.deploy.loads import buffer_chunks
from cimsim.deploy.tasks import build_tasks
from cimsim.engine.choose import case_of, cheapest, possible_works, with_book, with_kept_books
from cimsim.events import Timeline, run
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import Plan

Codes = Mapping[str, NDArray]  # layer -> its indices [O, sub-vectors, books]


@dataclass(frozen=True)
class Simulation:
    """What `simulate` found. Every field of its report is at hand here too (`.energy_pj`)."""

    report: CostReport
    account: Account
    plan: Plan

    @property
    def timeline(self) -> Timeline:
        """Who was busy or waiting when."""
        return self.account.timeline

    @property
    def deployment(self) -> Deployment:
        """How the network lies on the chip."""
        return self.account.deployment

    def repriced(self, activity: Activities) -> CostReport:
        """The same cycles with other data; nothing is placed or run again."""
        return accounts.report(self.account._replace(activity=activity), self.plan)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask before `report` is there
            raise AttributeError(name)
        return getattr(self.report, name)


def simulate(  # noqa: PLR0913  the front door: all but three are named
    network: Network,
    chip: Chip,
    plan: Plan | None = None,
    *,
    batch: int = 1,
    layout: Layout | None = None,
    images_per_weight_load: float | None = None,
    activity: Activities | None = None,
    codes: Codes | None = None,
) -> Simulation:
    """Energy, latency and area of `batch` images of `network` on `chip` under `plan` (default: 8-bit linear), and who
    was busy or waiting when.

    `codes` are the real indices of layers, whose bank conflicts are then counted from them (else: uniform indices).
    Raises InputError that names every layer which the chip cannot hold or decode, and why.
    """
    if batch < 1:
        raise InputError("simulate", [f"batch = {batch}: must be >= 1"])
    network = network.batched(batch) if batch > 1 else network
    plan, layout = plan or Plan.uniform(network, "linear-8"), layout or Layout()
    works = layer_works(network, chip, plan, layout, codes)
    resident = is_resident(works, chip)
    _check_reload(network, works, chip, resident)
    images = images_of(images_per_weight_load, resident, network.batch)
    deployment = deploy(network, chip, works, resident, layout.order)
    timeline = run(build_tasks(deployment), pipelined=deployment.pipelined, buffer_chunks=buffer_chunks(chip))
    account = Account(deployment, timeline, images, activity or {}, Prices(chip))
    return Simulation(accounts.report(account, plan), account, plan)


def images_of(images_per_weight_load: float | None, resident: bool, batch: int = 1) -> float:
    """Images that share one weight load; by default all if the weights stay, the batch if not.

    Raises InputError below the batch, whose images pass together.
    """
    images = images_per_weight_load if images_per_weight_load is not None else inf if resident else float(batch)
    if not images >= batch:
        raise InputError(
            "simulate", [f"images_per_weight_load = {images:g}: must be >= {batch}, the images of a batch"]
        )
    return images


def layer_works(
    network: Network, chip: Chip, plan: Plan, layout: Layout | None = None, codes: Codes | None = None
) -> dict[str, LayerWork]:
    """Place every layer and count its work. Raises InputError with all refusals at once."""
    copies = layout.copies if layout else {}
    try:
        plan.check(network)
    except ValueError as error:
        raise InputError("plan", str(error).split("; ")) from None
    known = {layer.name for layer in network.layers}
    problems = [f"layout.copies.{name}: no such layer" for name in copies if name not in known]
    found: dict[str, list[LayerWork]] = {}
    for layer in network.layers:
        try:
            choice = plan.layers[layer.name]
            case = case_of(layer, choice, chip)
            found[layer.name] = possible_works(case, choice.dataflow, (codes or {}).get(layer.name))
        except Unmappable as refused:
            problems.append(f"layers.{layer.name}.format = {plan.layers[layer.name].format!r}: {refused}")
    reloads = not is_resident({name: works[0] for name, works in found.items()}, chip)
    works = {}
    for name, choices in found.items():
        book = plan.book_id(name)
        try:
            works[name] = duplicated(with_book(cheapest(choices, chip, reloads), book), copies.get(name, 1), chip)
        except Unmappable as refused:
            problems.append(f"layers.{name}.format = {plan.layers[name].format!r}: {refused}")
    problems += _rom_problems(chip, plan, works)
    if problems:
        raise InputError(f"{network.name} on {chip.name}", problems)
    return with_kept_books(works, plan, chip)


def _check_reload(network: Network, works: Mapping[str, LayerWork], chip: Chip, resident: bool) -> None:
    is_writable = rates.is_writable(chip)
    if resident or (is_writable and chip.parts.dram is not None):
        return
    need = sum(work.placement.num_units for work in works.values()) * chip.arrays_per_unit
    have = chip.num_arrays * rates.weight_sets(chip)
    lacks = "and no outer memory (dram) to reload from" if is_writable else "whose cells cannot be rewritten"
    remedy = ", or add a dram part" if is_writable else ""
    raise InputError(
        f"{network.name} on {chip.name}",
        [f"the network needs {need} arrays, the chip has {have} {lacks}: use fewer bits, more tiles{remedy}"],
    )


def _rom_problems(chip: Chip, plan: Plan, works: Mapping[str, LayerWork]) -> Iterator[str]:
    """The ROM holds every distinct book of the plan at once, but those that are looked up elsewhere."""
    elsewhere = {plan.book_id(name) for name, work in works.items() if work.dataflow == "lookup"}
    rom, books = chip.parts.rom, {id_: fmt for id_, fmt in plan.codebooks().items() if id_ not in elsewhere}
    bits = sum(fmt.codebook_bits for fmt in books.values())
    if rom is not None and bits > rom.capacity_bits:
        yield (f"codebooks {', '.join(sorted(books))} have {bits} bits together, "
               f"the ROM {chip.name_of(rom)} holds {rom.capacity_bits}: share books or enlarge it")  # fmt: skip

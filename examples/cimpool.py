"""A shared binary pool with error signs against 4-bit weights: storage, area and energy of ResNet-18, beside the claims
of CIMPool's abstract (arXiv 2503.22044), whose converters, node and bookkeeping are not printed."""

from cimsim import load_chip, load_network, simulate
from cimsim.chip.rates import unit_area_um2
from cimsim.components.laws.sram_table import sram_figures
from cimsim.engine.whole import layer_works
from workloads.format import parse_format
from workloads.plan import Plan

POOL = "pool-128"
network, pooled, plain = load_network("resnet18"), load_chip("cimpool"), load_chip("sram-rom")
stored = {name: sum(parse_format(name).bits(layer).total for layer in network.layers) for name in (POOL, "linear-8")}
compression = stored["linear-8"] / stored[POOL]


def resident_mm2(chip, fmt: str) -> float:
    """Area of all units that hold the whole network at once, with a memory for codes and a pool in every tile."""
    works = layer_works(network, chip, Plan.uniform(network, fmt)).values()
    units = sum(-(-work.placement.num_arrays // chip.arrays_per_unit) for work in works)
    per_tile = chip.units_per_tile
    codes = sum(parse_format(fmt).num_codes(layer) * parse_format(fmt).code_bits for layer in network.layers)
    shared = [part.component for part in chip.placed if part.name in ("pool_array", "pool_dac", "pool_adc", "gather")]
    tile_um2 = sum(part.count * part.area_um2(chip.technology) for part in shared)
    memory_um2 = sram_figures(codes, 64, chip.technology).area_um2 if fmt == POOL else 0.0
    return (units * unit_area_um2(chip) + units / per_tile * tile_um2 + memory_um2) / 1e6


area = {fmt: resident_mm2(chip, fmt) for chip, fmt in ((pooled, POOL), (plain, "linear-4"))}
wider = load_chip("sram-rom", {"tile.count": 5, "mesh.columns": 5, "mesh.rows": 1})  # 5 % more area than cimpool
energy = {fmt: simulate(network, chip, Plan.uniform(network, fmt)).energy_pj
          for chip, fmt in ((pooled, POOL), (wider, "linear-4"))}  # fmt: skip
print(f"storage: {stored[POOL] / 8e6:.3f} MB against {stored['linear-8'] / 8e6:.2f} MB of 8-bit weights: "
      f"{compression:.1f} x (abstract: 14.8 x)")  # fmt: skip
print(f"area that holds the network: {area[POOL]:.1f} mm2 against {area['linear-4']:.1f} mm2 of 4-bit arrays: "
      f"{100 * (area[POOL] / area['linear-4'] - 1):+.1f} % (abstract: -62.3 %)")  # fmt: skip
print(
    f"energy at {pooled.area_um2() / 1e6:.2f} against {wider.area_um2() / 1e6:.2f} mm2: {energy[POOL] / 1e9:.3f} mJ "
    f"against {energy['linear-4'] / 1e9:.3f} mJ: {energy['linear-4'] / energy[POOL]:.2f} x less (abstract: 3.24)"
)

"""What a chip's parts mean in time: clocks to ticks, widths to cycles."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, gcd
from typing import NamedTuple

from cimsim.chip.model import Chip
from cimsim.components.adc import Adc
from cimsim.components.laws.memory_array import MemoryArray

PS_PER_S = 10**12
SLOW_HZ, FINE_HZ = 10**8, 10**9


def ticks(duration_ps: int, rate_hz: int) -> int:
    """Whole ticks of a clock that cover a duration."""
    return -(-duration_ps * rate_hz // PS_PER_S)


def instant_ps(tick: int | Fraction, rate_hz: int) -> int:
    """When tick `tick` of a clock falls: never tick times a rounded period."""
    return int(-(-tick * PS_PER_S // rate_hz))


def weight_sets(chip: Chip) -> int:
    """Sets of weights that the chip's arrays hold, of which they use one at a time."""
    return chip.array.weight_sets if isinstance(chip.array, MemoryArray) else 1


def is_writable(chip: Chip) -> bool:
    """Whether weights can be replaced by others."""
    return not isinstance(chip.array, MemoryArray) or chip.array.is_writable


def holds_weights(chip: Chip) -> bool:
    """Whether weights lie in the chip's arrays: multipliers have none."""
    return isinstance(chip.array, MemoryArray)


def converter_rate_hz(chip: Chip) -> int:
    """The clock of everything inside a unit: conversions a second of one ADC, one to a tick.

    A converter slower than SLOW_HZ takes several ticks, of 1 ns at most, so that reads beside it are not rounded up
    to whole conversions. With stated steps a tick is the longest time of which steps, reads and pulses are whole
    multiples.
    """
    array, adc, *_ = chip.parts.analog
    if adc.step_ps is None:
        return adc.rate_hz * _conversion_ticks(adc)
    # rounded down, since so many ps are one tick
    return PS_PER_S // gcd(adc.step_ps, array.read_ps or 0, array.pulse_ps or 0)


def _conversion_ticks(adc: Adc) -> int:
    return 1 if adc.rate_hz >= SLOW_HZ else ceil(FINE_HZ / adc.rate_hz)


class InputStep(NamedTuple):
    """One step of an input vector, of `bits` bits: what one read of it takes.

    `drives`: how often word lines are driven; `pulses`: time units in which cells conduct; `converted_bits` and
    `convert_ticks`: of each conversion after it, ticks of the converter clock.
    """

    bits: int
    drives: int
    pulses: int
    read_ps: int
    converted_bits: int
    convert_ticks: int


def input_steps(chip: Chip, input_bits: int) -> tuple[InputStep, ...]:
    """The steps in which an input of so many bits is driven, most significant bits first."""
    array, adc, _, dac, _ = chip.parts.analog
    steps, carried = [], 0
    for bits in dac.step_bits(input_bits):
        converted = max(1, adc.bits - carried) if adc.tapers else adc.bits
        pulses = dac.pulses(bits)
        alone_ps = array.read_ps or 0
        read = alone_ps + pulses * array.pulse_ps if array.pulse_ps else alone_ps * pulses
        each = (
            _conversion_ticks(adc)
            if adc.step_ps is None
            else ticks(adc.num_steps(converted) * adc.step_ps, converter_rate_hz(chip))
        )
        steps.append(InputStep(bits, dac.drives(bits), pulses, read, converted, each))
        carried += bits
    return tuple(steps)


def reads_per_vector(chip: Chip, input_bits: int) -> int:
    """Reads of one row group for one input vector: its steps, each in all phases."""
    return len(input_steps(chip, input_bits)) * chip.parts.analog.crossbar.phases


def read_ps(chip: Chip, input_bits: int) -> int:
    """Time in which one row group is read for one input vector, conversions apart."""
    return sum(step.read_ps for step in input_steps(chip, input_bits)) * chip.parts.analog.crossbar.phases


def array_rate_hz(chip: Chip) -> int:
    """Steps a second of a digital array."""
    return chip.array.rate_hz


def arrays_per_adc(chip: Chip, num_arrays: int) -> int:
    """Arrays whose columns one ADC converts, one after the other, when `num_arrays` of a unit are in use."""
    return ceil(min(num_arrays, chip.arrays_per_unit) / chip.parts.analog.adcs_per_unit)


def adcs_per_array(chip: Chip) -> int:
    return max(1, chip.parts.analog.adcs_per_unit // chip.arrays_per_unit)


def pipeline_ps(chip: Chip) -> dict[str, int]:
    """Durations of the stages around the arrays: fetch, shift_add, digital, write."""
    clock = chip.clocks_hz["array"]
    return {
        "fetch": instant_ps(chip.pipeline.fetch_cycles, clock),
        "shift_add": instant_ps(chip.pipeline.shift_add_cycles, clock),
        "digital": instant_ps(chip.pipeline.digital_cycles, clock),
        "write": instant_ps(chip.pipeline.write_cycles, clock),
    }


def bus_ps(chip: Chip, bits: int) -> int:
    """Time for `bits` on one tile's bus, one word a digital cycle (0 without a bus)."""
    bus = chip.parts.tile_bus
    return instant_ps(ceil(bits / bus.width_bits), chip.clocks_hz["digital"]) if bus else 0


def digital_role(chip: Chip, role: str) -> str:
    """The role of the lanes that do `role`'s work: its own, else the activation lanes' (which do everything)."""
    return role if role in chip.parts.lanes else "activation"


def digital_ps(chip: Chip, role: str, operations: int) -> int:
    """Time for one tile's lanes of this role to finish `operations` (0 on a chip without digital lanes)."""
    own = chip.parts.lanes
    if not own:
        return 0
    part = own.get(digital_role(chip, role)) or next(iter(own.values()))
    return instant_ps(ceil(operations / (part.lanes * part.count)), chip.clocks_hz["digital"])


def load_width_bits(chip: Chip) -> int:
    """Bits of weights or codes that reach one tile's arrays in a digital cycle."""
    parts = chip.parts
    return (parts.index_buffer or parts.tile_bus or parts.tile_buffer).width_bits


def write_ticks(chip: Chip) -> int:
    """Digital cycles to write one word line; nobody waits for arrays that are made with their weights."""
    return max(1, ticks(chip.parts.cells.write_ps or 0, chip.clocks_hz["digital"]))


def maps_outside(chip: Chip) -> bool:
    """Whether layers take their inputs from the outer memory, and send their results there, as they work."""
    gather = chip.parts.gather
    return gather is not None and gather.maps_in_memory


def map_buffer_bits(chip: Chip) -> int:
    """Room for whole feature maps: the global buffer's, or that of all tile buffers without one."""
    whole = chip.parts.global_buffer
    return whole.capacity_bits if whole else chip.num_tiles * chip.parts.tile_buffer.capacity_bits


def memory_ps(chip: Chip, bits: int) -> int:
    """Time of so many bits at the full bandwidth of the outer memory, or of the link where that is the source."""
    memory, link = chip.parts.dram, chip.parts.link
    if memory is not None:
        return memory.transfer_ps(memory.bus_bits(bits))
    return instant_ps(bits, link.rate_hz) if link else 0


def unit_area_um2(chip: Chip) -> float:
    """Area of one unit: its arrays, converters and registers."""
    return 1e6 * next(r.area_mm2 for r in chip.bill() if (r.level, r.component) == (chip.unit.name, "total"))

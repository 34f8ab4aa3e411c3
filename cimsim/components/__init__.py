"""The parts a chip can be made of: kind -> class. A new part is one file and one line here."""

from cimsim.components.adc import Adc
from cimsim.components.base import Component
from cimsim.components.block import Block
from cimsim.components.buffer import Buffer
from cimsim.components.bus import Bus
from cimsim.components.codebook_rom import CodebookRom
from cimsim.components.crossbar import Crossbar
from cimsim.components.dac import Dac
from cimsim.components.digital import Digital
from cimsim.components.digital_array import DigitalArray
from cimsim.components.dram import Dram
from cimsim.components.gather import Gather
from cimsim.components.index_buffer import IndexBuffer
from cimsim.components.lattice_decoder import LatticeDecoder
from cimsim.components.link import Link
from cimsim.components.multiplier_array import MultiplierArray
from cimsim.components.product_buffer import ProductBuffer
from cimsim.components.register import Register
from cimsim.components.router import Router
from cimsim.components.sample_hold import SampleHold
from cimsim.components.shift_add import ShiftAdd

COMPONENTS: dict[str, type[Component]] = {
    "crossbar": Crossbar,
    "digital_array": DigitalArray,
    "multiplier_array": MultiplierArray,
    "dac": Dac,
    "sample_hold": SampleHold,
    "adc": Adc,
    "shift_add": ShiftAdd,
    "register": Register,
    "buffer": Buffer,
    "index_buffer": IndexBuffer,
    "codebook_rom": CodebookRom,
    "lattice_decoder": LatticeDecoder,
    "product_buffer": ProductBuffer,
    "gather": Gather,
    "router": Router,
    "bus": Bus,
    "link": Link,
    "dram": Dram,
    "digital": Digital,
    "block": Block,
}

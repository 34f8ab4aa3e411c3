"""The adders that turn a lattice code into a vector, without any table.

A code is unpacked to coordinates z; the vector is x = G z minus q times the nearest point of the lattice to
x / q (J. H. Conway and N. J. A. Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and
codes", IEEE Trans. Information Theory 28, 1982), shifted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source
from cimsim.components.laws.logic import ADDER_8B_PJ, ADDER_8B_UM2, NEUROSIM, area_at, energy_at, leakage_uw
from cimsim.components.laws.scaling import Technology


def nearest_dn_additions(n: int) -> int:
    """Nearest point of D_n: n roundings, n - 1 additions for parity, n - 1 comparisons, one correction."""
    return n + (n - 1) + (n - 1) + 1


def decode_additions(lattice: str) -> int:
    """8-bit additions of decoding one vector: generator, nearest point, subtraction, shift."""
    if lattice == "d4":
        return 4 + nearest_dn_additions(4) + 4 + 4
    two_cosets = 2 * nearest_dn_additions(8)  # E8 is D8 and D8 + 1/2
    distances = 2 * (8 + 7) + 1  # two L1 distances and their comparison
    return (8 + 8) + two_cosets + distances + 8 + 8  # the last row of E8's generator touches all coordinates


class LatticeDecoder(Component):
    """Decodes `ports` vectors a cycle; a decode is priced at the largest of its `lattices`."""

    ACTIONS: ClassVar = ("decode",)
    SOURCES: ClassVar = (
        Source("J. H. Conway and N. J. A. Sloane, IEEE Trans. IT 28, 1982: the algorithms counted here"),
        Source(
            f"8-bit adder: {NEUROSIM}; held to M. Horowitz, ISSCC 2014 (int8 add, 45 nm, 0.9 V: 0.03 pJ)",
            (
                CheckPoint(  # 23 additions
                    {"lattices": ["d4"], "ports": 1, "latency_cycles": 1},
                    Technology(45, 0.9),
                    "decode",
                    23 * 0.03,
                    0.2,
                ),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["lattice_decoder"] = "lattice_decoder"
    lattices: tuple[Literal["d4", "e8"], ...] = Field(min_length=1)
    ports: int = Field(ge=1)
    latency_cycles: int = Field(ge=1)

    @property
    def num_additions(self) -> int:
        """Additions of one decode, and adders of one port."""
        return max(decode_additions(lattice) for lattice in self.lattices)

    @property
    def actions_per_access(self) -> int:
        return self.ports

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return energy_at(ADDER_8B_PJ, tech) * self.num_additions

    def base_area_um2(self, tech: Technology) -> float:
        return area_at(ADDER_8B_UM2, tech) * self.num_additions * self.ports

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)

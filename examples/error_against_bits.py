"""Error against stored bits of every family of formats, on one tensor of Gaussian weights; nothing is trained."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import qat
from reports.style import FAINT, FAMILY_COLOURS

FORMATS = (
    "linear-1", "linear-2", "linear-3", "linear-4", "vq-8x16-e6-s0", "vq-8x256-e6-s0", "vq-4x16-e6-s0",
    "vq-4x256-e6-s0", "vq-4x256x2-e8-s0", "d4-q2", "d4-q3", "d4-q4", "e8-q2", "e8-q3", "e8-q4", "e8p", "e8-r2",
    "e8-q4m2", "pool-128",
)  # fmt: skip
FAMILIES = {"linear": ("linear", "D"), "vq": ("codebook", "o"), "lattice": ("lattice", "v"), "pool": ("pool", "s")}
NAMED = {  # format -> how many points its name stands above the middle of its mark
    "linear-1": 6, "vq-8x256-e6-s0": -6, "linear-2": 0, "e8-q4": -2, "linear-3": 0, "linear-4": 7,
    "vq-4x256x2-e8-s0": -2, "e8-q4m2": -3, "pool-128": 0,
}  # fmt: skip

weight = torch.randn((512, 1152), generator=torch.Generator().manual_seed(0))
found = {}
for name in FORMATS:
    encoded = qat.encode(weight, name)
    bits = 8 * encoded.nbytes / weight.numel()
    error = float((qat.decode(encoded) - weight).square().mean())
    found[name] = encoded.fmt.kind, bits, error
    print(f"{name:16} {bits:5.3f} bits per weight, {encoded.fmt.array_bits} in the array, error {error:.4f}")

figure = Figure(figsize=(7.2, 4.4), layout="constrained")
axes = figure.add_subplot(
    xlabel="stored bits per weight (codebook and scales included)", ylabel="relative squared error", yscale="log"
)
limit = [b / 20 for b in range(8, 90)]
axes.plot(limit, [2 ** (-2 * b) for b in limit], color=FAINT, lw=1, ls=":", label="limit for Gaussian weights")
for kind, (label, marker) in FAMILIES.items():
    points = sorted((bits, error) for family, bits, error in found.values() if family == kind)
    colour = FAMILY_COLOURS[kind][3]
    axes.plot(*zip(*points, strict=True), marker, ms=7, mfc="none", mec=colour, mew=1.5, label=label)
for name, above in NAMED.items():
    kind, bits, error = found[name]
    colour = FAMILY_COLOURS[kind][3]
    axes.annotate(name, (bits, error), (9, above), textcoords="offset points", color=colour, fontsize=8, va="center")
axes.grid(color="#EBECEE", lw=0.8)
axes.set_axisbelow(True)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/error_against_bits.png", dpi=140)

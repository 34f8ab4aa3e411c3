"""When do codes in a ROM save energy? Energy per image over the images that share one weight load, on sram-rom."""

from itertools import product
from pathlib import Path

from matplotlib.figure import Figure

from cimsim import Plan, load_chip, load_network, simulate

IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
FORMATS = {"linear-8": "s", "linear-4": "D", "linear-2": "^", "vq-4x256-e4-s0": "o", "e8-q4": "v"}

chip, network = load_chip("sram-rom"), load_network("lenet5")
energy_nj = {
    name: [
        simulate(network, chip, Plan.uniform(network, name), images_per_weight_load=images).energy_pj / 1e3
        for images in IMAGES
    ]
    for name in FORMATS
}


def break_even(coded: str, linear: str) -> str:
    """From how many images per weight load on the coded weights cost more than the linear ones."""
    pairs = zip(IMAGES, energy_nj[coded], energy_nj[linear], strict=True)
    dearer = [images for images, one, other in pairs if one > other]
    if dearer[:1] == [1]:
        return f"{coded} against {linear}: costs more at any number of images"
    found = f"costs more from {dearer[0]} on" if dearer else f"costs less up to {IMAGES[-1]}"
    return f"{coded} against {linear}: {found}"


for name, values in energy_nj.items():
    print(f"{name:15} {values[0]:7.0f} nJ at 1 image per load, {values[-1]:6.0f} nJ at {IMAGES[-1]}")
for coded, linear in product(("vq-4x256-e4-s0", "e8-q4"), ("linear-4", "linear-2")):
    print(break_even(coded, linear))

figure = Figure(figsize=(6.4, 3.8), layout="constrained")
axes = figure.add_subplot(xlabel="images per weight load", ylabel="energy per image (nJ)")
for name, values in energy_nj.items():
    axes.loglog(IMAGES, values, marker=FORMATS[name], ms=4, label=name)
axes.set_xticks(IMAGES, map(str, IMAGES))
axes.set_yticks((200, 500, 1000, 2000, 5000), ("200", "500", "1,000", "2,000", "5,000"))
axes.minorticks_off()
axes.legend(frameon=False)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/break_even.png", dpi=120)

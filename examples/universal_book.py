"""One universal codebook in ROM against a codebook of its own for each layer, reloaded with the layer's codes: what the
ROM saves over the size of the network and the images between two task switches."""

from pathlib import Path

from matplotlib.figure import Figure

from cimsim import Plan, load_chip, load_network, simulate
from cimsim.components.buffer import Buffer
from workloads.format import parse_format

FORMAT, IMAGES = "vq-4x256-e4-s0", (1, 10, 100, 1000)
NETWORKS = ("digitsnet", "lenet5", "resnet8", "resnet18", "resnet50")
chip, fmt = load_chip("sram-rom"), parse_format(FORMAT)
rom, memory = chip.parts.rom, chip.parts.dram
# In place of the ROM an SRAM of the same size and width, written anew for every layer.
sram = Buffer(memory="sram", role="codebook", capacity_bits=rom.capacity_bits, width_bits=rom.width_bits)
prices = {name: sram.energy_pj(name, chip.technology) for name in ("read_bit", "write_bit")}
load_pj = fmt.codebook_bits * (memory.energy_pj("read_bit", chip.technology) + prices["write_bit"])
saved = {}
for name in NETWORKS:
    network = load_network(name)
    for images in IMAGES:
        universal = simulate(network, chip, Plan.uniform(network, FORMAT), images_per_weight_load=images)
        in_rom_pj = sum(universal.energy_by_component_pj["codebook_rom"].values())
        in_sram_pj = in_rom_pj * prices["read_bit"] / rom.energy_pj("read_bit", chip.technology)
        own_pj = universal.energy_pj - in_rom_pj + in_sram_pj + len(network.layers) * load_pj / images
        saved[name, images] = 1 - universal.energy_pj / own_pj
    shown = ", ".join(f"{100 * saved[name, images]:.2f} % at {images}" for images in IMAGES)
    print(f"{name:10} {network.num_weights:10,} weights: {shown} images per switch")

figure = Figure(figsize=(6.4, 3.8), layout="constrained")
axes = figure.add_subplot(xlabel="weights of the network", ylabel="energy per image saved by the ROM (%)")
sizes = [load_network(name).num_weights for name in NETWORKS]
for images in IMAGES:
    axes.loglog(sizes, [100 * saved[name, images] for name in NETWORKS], marker="o", ms=4,
                label=f"{images} image{'s' * (images > 1)} per task switch")  # fmt: skip
for size, name in zip(sizes, NETWORKS, strict=True):
    axes.annotate(name, (size, 100 * saved[name, 1]), textcoords="offset points", xytext=(4, 5), fontsize=8)
axes.axhline(1, color="#888888", linewidth=0.8)
axes.legend(frameon=False, fontsize=8)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/universal_book.png", dpi=120)

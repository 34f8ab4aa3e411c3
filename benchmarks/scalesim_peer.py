"""ResNet-18 on SCALE-Sim 3.0.0 and here, CPU seconds in one run.

SCALE-Sim simulates a systolic array of 128 x 128, weight stationary, cycle by cycle, without energy, area or several
tiles; here the whole chip with contention and energy is simulated. Both take the same layers and multiply-accumulates.
SCALE-Sim needs numpy 1.26, and so an environment of its own:

    python3 -m venv .venv-scalesim && .venv-scalesim/bin/pip install scalesim==3.0.0 numpy==1.26.4
    python -m benchmarks.scalesim_peer [.venv-scalesim/bin/python]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.resnet18 import CHIPS, best_cpu_s, command_cpu_s
from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from workloads.layer import Layer, Network
from workloads.shapes import load_network

PEER = ".venv-scalesim/bin/python"
CONFIG = """[general]
run_name = peer
[architecture_presets]
ArrayHeight: 128
ArrayWidth: 128
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: ws
Bandwidth: 10
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def topology(network: Network) -> str:
    """The network's layers as SCALE-Sim's convolutions, padding inside the input's size."""
    lines = ["Layer, IFMAP height, IFMAP width, Filter height, Filter width, Channels, Num filter, Strides,"]
    return "\n".join([*lines, *(_line(layer) for layer in network.layers)]) + "\n"


def _line(layer: Layer) -> str:
    height, width = (n + 2 * p for n, p in zip(layer.in_size, layer.padding, strict=True))
    sizes = height, width, *layer.kernel, layer.in_channels, layer.out_channels, layer.stride[0]
    return f"{layer.name.replace('.', '_')}, {', '.join(map(str, sizes))},"


def layout(network: Network) -> str:
    """A file that SCALE-Sim wants even where the configuration turns layouts off."""
    return "\n".join(["Layer,", *(f"{layer.name.replace('.', '_')}{', 1' * 24}," for layer in network.layers)]) + "\n"


def peer_cpu_s(python: str, network: Network) -> float:
    """CPU seconds of SCALE-Sim on these layers, its imports left out. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "scale.cfg").write_text(CONFIG)
        (place / "net.csv").write_text(topology(network))
        (place / "layout.csv").write_text(layout(network))
        program = (
            "from scalesim.scale_sim import scalesim as S; "
            f"S(save_disk_space=True, verbose=False, config=r'{place}/scale.cfg', topology=r'{place}/net.csv', "
            f"layout=r'{place}/layout.csv', input_type_gemm=False).run_scale(top_path=r'{place}')"
        )
        return _cpu_s([python, "-c", program]) - _cpu_s([python, "-c", "from scalesim.scale_sim import scalesim"])


def _cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    python = sys.argv[1] if len(sys.argv) > 1 else PEER
    if not Path(python).exists():
        sys.exit(f"{python}: SCALE-Sim is not installed: {__doc__.partition(':')[2].strip().splitlines()[-2].strip()}")
    network = load_network("resnet18")
    peer_s = peer_cpu_s(python, network)
    print(f"SCALE-Sim 3.0.0, {sum(layer.num_macs for layer in network.layers):,} multiply-accumulates: {peer_s:.1f} s")
    for name in CHIPS:
        chip = load_chip(name)
        warm_s = best_cpu_s(lambda chip=chip: simulate(network, chip))
        command_s = command_cpu_s(name)
        print(f"{name:10s} warm {warm_s:.3f} s: {peer_s / warm_s:,.0f} times faster; "
              f"as a command {command_s:.2f} s: {peer_s / command_s:,.0f} times")  # fmt: skip


if __name__ == "__main__":
    main()

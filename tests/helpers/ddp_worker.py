"""One of several processes that train copies of one model together: prints a hash of all it ends with, per recipe."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import torch
from torch import nn
from torch.distributed import barrier, destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from qat.modules.attach import quantize
from qat.modules.attached import quantizers
from qat.modules.upkeep import after_step, parameter_groups
from qat.recipe import RECIPES
from workloads.plan import Plan

STEPS = 5


def train(recipe: str, rank: int) -> dict[str, object]:
    """A few steps on data of this rank alone; entries that die on the way are revived."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    plan = Plan.uniform(model, "vq-4x16-e4-s0").model_copy(update={"sharing": "layer"})
    quantize(model, plan, recipe=RECIPES[recipe])
    optimizer = torch.optim.SGD(parameter_groups(model, 0.05), momentum=0.9)
    together = DistributedDataParallel(model, forward_sync_buffers=False)  # what is equal was not made so by copying
    data, revived, losses = torch.Generator().manual_seed(rank), 0.0, []
    for step in range(STEPS):
        if step == 2:
            with torch.no_grad():
                for quantizer in quantizers(model).values():
                    quantizer.book.entries[3:6] = quantizer.book.entries[2]  # the first of equal ones is chosen
                    quantizer.book.counts[3:6] = 0
        x, y = torch.randn((16, 2, 6, 6), generator=data), torch.randint(10, (16,), generator=data)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(together(x), y)
        loss.backward()
        optimizer.step()
        revived += after_step(model, step)["revived"]
        losses.append(float(loss.detach()))
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
    return {"hash": digest.hexdigest(), "revived": revived, "losses": losses}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
    print(json.dumps({recipe: [train(recipe, rank) for _ in range(2)] for recipe in sys.argv[2:]}))
    barrier()
    destroy_process_group()

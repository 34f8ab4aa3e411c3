"""Commented YAML files to start from, with their JSON schema for editors."""

from __future__ import annotations

import json as json_text
from pathlib import Path

from cimsim.chip.reading import CHIPS, chip_schema
from cimsim.cli.show import say
from cimsim.studies.study import study_schema
from workloads.errors import InputError
from workloads.store import write_atomically

STUDY = """\
# yaml-language-server: $schema=./{schema}
# A study: what to train, on which chips, within which budgets. `cimsim codesign FILE` does it.
name: my_study            # results go to runs/my_study
network: lenet5           # a known network; training needs one that takes the images of `data`
data: fashion_mnist       # fashion_mnist or digits
seeds: [0]                # several seeds give error bars
chips:
  - chip: isaac           # a ready chip (`cimsim chips list`) or a chip YAML
    budgets: [0.55, 0.7]  # energy per image, as a share of the dearest plan's (linear-8, as a rule)
  - chip: sram-rom
    budgets: [0.2, 0.3, 0.5]
    vary: {{adc.bits: [5]}} # the sweep: each listed value alone
formats: [linear-8, linear-4, linear-2, vq-4x16-e4-s0, vq-4x256-e4-s0]  # `cimsim formats`
baselines: [linear-4]     # uniform plans to compare with
train: {{float_epochs: 8, warm_images: 20000, search_images: 60000, tune_images: 150000}}
workers: 2                # processes; results do not depend on it
"""


def write_starter(what: str, path: Path | None, schema_only: bool) -> None:
    """Write `chip.yaml` or `study.yaml` with its schema beside it, or print the schema.

    Raises InputError rather than overwrite a YAML; the schema is made again.
    """
    schemas = {"chip": chip_schema, "study": study_schema}
    if what not in schemas:
        raise InputError("cimsim init", [f"{what!r}: must be chip or study"])
    schema = json_text.dumps(schemas[what](), indent=1)
    if schema_only:
        print(schema)
        return
    target = path or Path(f"{what}.yaml")
    beside = target.with_suffix(".schema.json")
    if target.exists():
        raise InputError(str(target), ["exists already: name another file"])
    if not target.parent.is_dir():
        raise InputError(str(target), [f"{target.parent} is not a folder: make it, or name another file"])
    write_atomically(beside, schema.encode())
    write_atomically(target, starter_text(what, beside.name).encode())
    say(f"wrote {target} and {beside}")


def starter_text(what: str, schema: str) -> str:
    """The study's template, or the ready chip `sram-rom` under a new name."""
    if what == "study":
        return STUDY.format(schema=schema)
    text = (CHIPS / "sram-rom.yaml").read_text().replace("name: sram-rom", "name: my-chip", 1)
    return f"# yaml-language-server: $schema=./{schema}\n{text}"

"""Golden vectors: inputs, random draws and results recorded from official implementations, cases of one item in one
.npz.

The keys of a case are described beside the code that computes the same with evalkit: `mixups.py`, and `protocols.py`
for files whose `meta` has a `kind`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]
ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One recorded call: `arrays` by key, and what `meta` says of it."""

    item: str
    number: int
    arrays: Arrays
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.item}-{self.number}"

    @property
    def official(self) -> tuple[str, str]:
        """Repository and function (of mixups: with the file before it) that the numbers come from."""
        source = self.meta["official"]
        if isinstance(source, dict):
            return source["repository"], source["function"]
        repository, _, function = source.partition(" ")
        return repository, function

    def below(self, prefix: str) -> Arrays:
        """The arrays whose keys start with `prefix`/, without it."""
        return {key.removeprefix(prefix + "/"): a for key, a in self.arrays.items() if key.startswith(prefix + "/")}

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        return {key: torch.from_numpy(a) for key, a in self.below(prefix).items()}

    def draws(self, prefix: str = "draws") -> dict[str, Any]:
        """Random draws as `Context` takes them: arrays without dimension are Python numbers."""
        return {key: a.item() if a.ndim == 0 else a for key, a in self.below(prefix).items()}


def read(directory: Path = ROOT) -> list[Case]:
    """All cases of the .npz files in `directory` and its folders, by item and number."""
    cases = []
    for path in sorted(directory.rglob("*.npz"), key=lambda p: p.stem):
        with np.load(path) as file:
            arrays = dict(file)
        for number in sorted({int(key.split("/")[0].removeprefix("case")) for key in arrays}):
            prefix = f"case{number}/"
            own = {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
            cases.append(Case(path.stem, number, own, json.loads(str(own.pop("meta")))))
    return cases

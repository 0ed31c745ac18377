"""K-means that ends early: how many bits a Huffman code takes for the codes of pruned weights."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xxhash
from omegaconf import OmegaConf

from experiments.reproduction.programs import SEED, Program
from experiments.yaml_folders import CONF

if TYPE_CHECKING:
    from lowrank.tasks import ImageClassification


@dataclass(frozen=True)
class EndedKMeans(Program):
    """The Huffman code of the survivors of one-shot pruning, by the iterations of k-means.

    Centroids start at even steps over the range of the survivors. The longer the algorithm runs,
    the more centroids move to where the weights are, and the more alike the codes are in frequency.

    Args:
        task: the name of its YAML in ``conf/task``; its cases hold what is in it, as a digest.
        seeds: of its training.
        sparsity: layer → share of zeros.
        bits: of a code.
        iterations: numbers of iterations; 1000 is until nothing changes.
    """

    task: str
    seeds: Sequence[int]
    sparsity: Mapping[str, float]
    bits: int
    iterations: Sequence[int]

    def cases(self) -> Iterator[dict[str, Any]]:
        every = itertools.product(self.seeds, self.sparsity.items(), self.iterations)
        task = {"task": self.task, "task_config": digest(self.task)}
        for seed, (layer, sparsity), count in every:
            own = task | {"layer": layer, "sparsity": sparsity, "bits": self.bits}
            yield own | {"iterations": count, SEED: seed}

    def measure(self, case: Mapping[str, Any]) -> dict[str, float]:
        import torch

        from lowrank.decomposers import MagnitudePruning
        from lowrank.factorizations.prefix_code import word_lengths
        from lowrank.numerics.kmeans import EVEN, SortedRows

        model = trained(case["task"], case[SEED]).model()
        weight: Any = model.get_submodule(case["layer"]).weight
        pruned = MagnitudePruning(case["sparsity"]).decompose(weight.detach().flatten(1)).to_dense()
        values = pruned[pruned != 0].detach().double().sort().values
        rows = SortedRows(values[None], torch.tensor([len(values)]))
        edges = rows.start(2 ** case["bits"], EVEN)
        for _ in range(case["iterations"]):
            edges = rows.partition(rows.centroids(edges))
        counts = edges.diff(dim=1)[0].tolist()
        coded = sum(c * length for c, length in zip(counts, word_lengths(counts), strict=True))
        return {"kept": len(values), "huffman_code_bytes": coded / 8}


def digest(task: str) -> str:
    """A digest of the fields of a task, another one if any of them changes."""
    fields = OmegaConf.to_container(_config(task), resolve=False)
    return xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True).encode())


def trained(task: str, seed: int) -> ImageClassification:
    """The task of a YAML, its model trained with a seed."""
    from experiments.parts import make

    fields: Any = OmegaConf.to_container(_config(task), resolve=True)
    made: Any = make(fields)
    return replace(made, seed=seed, calibration_seed=seed)


def _config(task: str) -> Any:
    return OmegaConf.load(CONF / "task" / f"{task}.yaml")

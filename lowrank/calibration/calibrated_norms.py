"""Norms from the calibration statistics of each weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from lowrank.calibration.collect import UNREACHED, collect
from lowrank.calibration.data import CalibrationData, as_data
from lowrank.calibration.fisher import fisher
from lowrank.calibration.pooling import few_positions, pooled, positions
from lowrank.calibration.provider import Job, NormProvider
from lowrank.calibration.sequential import calibrate_in_sequence
from lowrank.calibration.statistics import Calibration, Statistics, check_entries, check_source
from lowrank.factorizations.operations import KernelView
from lowrank.model.opened import open_weights
from lowrank.model.sites import Site, find_sites
from lowrank.norms import Diagonal, Full, Norm
from lowrank.norms.checks import check_damping
from lowrank.numerics.checks import check_flag, check_integer, check_number, check_one_of
from lowrank.numerics.memo import MEMO, model_fingerprint, model_key


@dataclass(frozen=True)
class CalibratedNorms(NormProvider):
    """Norms from the second moments of each layer's inputs on calibration data.

    Args:
        moment: ``diagonal``: E[x²] of the inputs; ``full``: E[x xᵀ]; ``fisher``: the empirical
            Fisher information of the weights, summed over each column (needs the task's loss). For
            a look-up table the first two give the share of look-ups of each row.
        damping: added to the diagonal, as a share of its mean; see `lowrank.norms`.
        power: exponent of a diagonal: 1 weights a column by the output error that it causes; 0.5 is
            ASVD's milder choice.
        outputs: whether rows are weighted by the Fisher information of their weights (needs the
            task's loss) instead of equally.
        mode: ``one-shot``: one pass of the dense model gives the statistics of all layers.
            ``sequential``: each block is calibrated on the outputs of the compressed blocks before
            it, so it can compensate their errors; each compression needs its own pass. The two are
            different methods and give different numbers.
        batch_size: examples per batch of a task's data; batches that a user gives keep their size.

    Raises:
        ValueError: an unknown setting, or settings that contradict each other.

    Source: ``full``: the output error of a layer, Nagel et al., ICML 2020, eq. 12; ``sequential``:
    Frantar et al., ICLR 2023 (GPTQ).
    """

    moment: Literal["diagonal", "full", "fisher"]
    damping: float = 0.01
    power: float = 1.0
    outputs: bool = False
    mode: Literal["one-shot", "sequential"] = "one-shot"
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_one_of("moment", self.moment, ("diagonal", "full", "fisher"))
        check_one_of("mode", self.mode, ("one-shot", "sequential"))
        check_damping(self.damping)
        check_number("power", self.power, "lie in (0, 1]", lambda x: 0 < x <= 1)
        check_integer("batch_size", self.batch_size, least=1)
        check_flag("outputs", self.outputs)
        if self.moment == "full" and self.power != 1:
            raise ValueError(f"power={self.power} is for a diagonal; with moment='full' it is 1")
        if self.mode == "sequential" and (self.outputs or self.moment == "fisher"):
            raise ValueError(
                "mode='sequential' stops each pass at its block, and Fisher information needs the "
                "loss at the end: use mode='one-shot', or moment='full' or 'diagonal' without "
                "outputs"
            )

    @property
    def types(self) -> tuple[type[Norm], ...]:
        return (Full,) if self.moment == "full" else (Diagonal,)

    @property
    def needs_data(self) -> bool:
        return True

    def one_shot(self) -> NormProvider:
        return replace(self, mode="one-shot")

    def over(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        if job.data is None:
            raise ValueError(
                f"{self} needs calibration data: give `data`, a task or a list of batches"
            )
        job.summary.update(moment=self.moment, mode=self.mode, damping=self.damping)
        if self.mode == "one-shot":
            calibration = self.calibrate(job.model, job.sites, job.data)
            job.summary.update(calibration.source, positions=positions(calibration.statistics))
            yield from self._norms(job.sites, calibration.statistics, job)
        else:
            yield from self._in_sequence(job)
        if len(job.unreached) == len(job.sites):
            reasons = "; ".join(f"layer '{name}': {why}" for name, why in job.unreached.items())
            raise ValueError(
                f"the calibration data say nothing about any selected layer: {reasons}. Calibrate "
                "on more data, choose other layers with `where`, or compress in the identity norm"
            )

    def over_saved(self, job: Job, known: str) -> Iterator[tuple[Site, Norm]]:
        """As `over`, from statistics made before, for a model whose numbers are not in memory: the
        norm of one weight after the other.

        Args:
            known: what `model_fingerprint` says of the model with its numbers.

        Raises:
            ValueError: the statistics are of another model or kind, or lack a weight.
        """
        for site in job.sites:
            names, wanted = [use.name for use in site.uses], self.source(known)
            check_source(job.data, wanted, names)
            check_entries(job.data, wanted, names, self._tables([site]))
            yield from self._norms([site], job.data.statistics, job)

    def source(self, known: str) -> dict[str, Any]:
        """What statistics of these norms are of, but for the data.

        Args:
            known: what `model_fingerprint` says of the model.
        """
        return {"model": known, "moment": self.moment, "outputs": self.outputs}

    def _in_sequence(self, job: Job) -> Iterator[tuple[Site, Norm]]:
        data = self._data(job.compact, job.data)
        job.summary.update(data=data.fingerprint())
        missed = dict.fromkeys(site.name for site in job.sites)
        full = self.moment == "full"
        units = calibrate_in_sequence(job.compact, job.sites, data, full, job.folder)
        for unit, statistics in units:
            job.summary.setdefault("positions", positions(statistics))
            yield from self._norms(unit.sites, statistics, job)
            job.settle()
            for site in unit.sites:
                del missed[site.name]
            del statistics  # Before those of the next unit are collected.
        job.unreached.update(dict.fromkeys(missed, UNREACHED))

    @torch.inference_mode(False)
    def calibrate(self, model: nn.Module, sites: Sequence[Site], data: Any) -> Calibration:
        """The statistics of the weights of a dense model.

        Memoised by content if `model` is `lowrank.unchanging`, otherwise computed at each call.
        Weights that no example reaches have a count of 0 and a note.

        Args:
            data: a task, a list of batches, or a `Calibration`. A `Calibration` must be of a model
                with the same numbers; a change in the model's code cannot be detected.

        Raises:
            ValueError: those of `collect` and `fisher`, and a `Calibration` of another model or
                kind.
        """
        names = [use.name for site in sites for use in site.uses]
        opened = open_weights(model, names).model
        if opened is not model:
            wanted = {site.name for site in sites}
            model, sites = opened, [one for one in find_sites(opened) if one.name in wanted]
        owner = model_key(model)
        # Whatever else of the model is opened.
        entire = open_weights(model).model
        known = owner[-1] if owner and entire is model else model_fingerprint(entire)
        source = self.source(known)
        if isinstance(data, Calibration):
            check_source(data, source, names)
            check_entries(data, source, names, self._tables(sites))
            return data
        data = self._data(model, data)
        source["data"] = data.fingerprint()
        key = None if owner is None else ("calibration", *owner, *source.values(), *names)

        def collected() -> dict[str, Statistics]:
            if owner is None or owner[0].identity is None:
                return self._collect(model, sites, data)
            shared = ("calibration", owner[0].identity, *source.values(), *names)
            return MEMO.shelved(shared, lambda: self._collect(model, sites, data))

        return Calibration(MEMO.get(key, collected), source)

    def _data(self, model: nn.Module, data: Any) -> CalibrationData:
        if isinstance(data, Calibration):
            self.check_saved()
        # A batch of several examples gives only the sum of their gradients.
        data = as_data(data, 1 if self.needs_loss else self.batch_size)
        data.check(model)
        return data

    def check_saved(self) -> None:
        """Raise ValueError unless statistics made before can stand in for data."""
        if self.mode == "sequential":
            raise ValueError(
                "mode='sequential' calibrates on the model while it is compressed; statistics made "
                "before are for mode='one-shot'"
            )

    @property
    def needs_loss(self) -> bool:
        """Whether the data must have targets."""
        return self.outputs or self.moment == "fisher"

    def _collect(
        self, model: nn.Module, sites: Sequence[Site], data: CalibrationData
    ) -> dict[str, Statistics]:
        names = [use.name for site in sites for use in site.uses]
        information = {}
        if self.needs_loss:
            information = fisher(model, {site.name: site for site in sites}, data)
        if self.moment == "fisher":
            return {
                use.name: self._of_fisher(site, information[site.name])
                for site in sites
                for use in site.uses
            }
        found = collect(model, names, data, full=self.moment == "full")
        for site in sites if self.outputs else ():
            known = information[site.name]
            for use in site.uses:
                entry = found[use.name]._replace(rows=known.rows)
                found[use.name] = entry if known.count else known
        return found

    def _tables(self, sites: Sequence[Site]) -> list[str]:
        """The modules whose statistics are rows alone: look-up tables, and for Fisher information
        only those whose weight no other module multiplies by.
        """
        return [
            use.name
            for site in sites
            for use in site.uses
            if all(one.rule.looks_up for one in (site.uses if self.moment == "fisher" else [use]))
        ]

    def _of_fisher(self, site: Site, entry: Statistics) -> Statistics:
        if not entry.count:
            return entry
        if all(use.rule.looks_up for use in site.uses):
            return entry._replace(columns=None)
        return entry if self.outputs else entry._replace(rows=None)

    def _norms(
        self, sites: Sequence[Site], statistics: Mapping[str, Statistics], job: Job
    ) -> Iterator[tuple[Site, Norm]]:
        for site in sites:
            entries = [statistics[use.name] for use in site.uses]
            reached = [entry for entry in entries if entry.count]
            said = tuple(dict.fromkeys(note for e in reached or entries for note in e.notes))
            if not reached:
                job.unreached[site.name] = "; ".join(said)
                continue
            job.notes[site.name] = said + few_positions(reached)
            try:
                norm = self._norm(site, statistics, job.views[site.name])
            except ValueError as error:  # For example, inputs that are always zero.
                job.unreached[site.name] = str(error)
                continue
            yield site, norm
            del norm

    def _norm(self, site: Site, statistics: Mapping[str, Statistics], view: KernelView) -> Norm:
        columns, rows, *_ = pooled(site, statistics)
        use = site.uses[0]
        if rows is not None:
            # In the view ``spatial`` each output has one row for each column of its kernel.
            rows = rows.repeat_interleave(len(site.matrix(view)) // len(rows))
        if columns is None:
            return Diagonal(rows=rows, damping=self.damping)
        columns = use.rule.moment(use.module, columns, view)
        if columns.ndim == 2:
            return Full(columns, rows, self.damping)
        return Diagonal(columns.pow(self.power), rows, self.damping)

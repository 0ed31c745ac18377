"""Recurrent layers: their weights as modules, and the cell loop that shows what these multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, unpack_sequence

from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener, is_of


class OpenRecurrent(Host, nn.RNNBase):
    """A recurrent layer that reads the weights of all its gates from modules.

    The fused kernel of PyTorch takes matrices, so that factors are multiplied out in every pass:
    compression saves bytes, and no time.
    """

    @classmethod
    def _left_out(cls) -> frozenset[str]:
        return frozenset({"_flat_weights", "_flat_weight_refs"})

    def closed(self, read: Callable[[nn.Module], Tensor]) -> nn.Module:
        module: Any = super().closed(read)
        module._init_flat_weights()
        return module

    # PyTorch keeps a list of the parameters; here it is read anew, and nothing is flattened.

    @property
    def _flat_weights(self) -> list[Tensor]:  # type: ignore[override]
        return [getattr(self, name) for name in self._flat_weights_names]

    def _update_flat_weights(self) -> None:
        pass

    def flatten_parameters(self) -> None:
        pass

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        return nn.Module._apply(self, fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self).copy()

    def __setstate__(self, state: Any) -> None:
        nn.Module.__setstate__(self, state)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As PyTorch's; in calibration each weight is called with what it multiplies as well."""
        if self.calls_weights:
            self._call_weights(input, hx)
        return super().forward(input, hx)

    def _call_weights(self, x: Any, hx: Any) -> None:
        """Call each weight with all vectors that it multiplies, in the layout of the inputs."""
        if not isinstance(x, PackedSequence):
            batch_first = self.batch_first and x.ndim == 3
            steps = x.transpose(0, 1) if batch_first else x if x.ndim == 3 else x[:, None]
            for name, vectors in self._multiplied(steps, self._states(hx, steps)):
                vectors = vectors if x.ndim == 3 else vectors[:, 0]
                self.get_submodule(name)(vectors.transpose(0, 1) if batch_first else vectors)
            return
        found: dict[str, list[Tensor]] = {}
        for number, sequence in enumerate(unpack_sequence(x)):
            own = None if hx is None else self._states(hx, sequence, slice(number, number + 1))
            steps = sequence[:, None]
            for name, vectors in self._multiplied(steps, own or self._states(None, steps)):
                found.setdefault(name, []).append(vectors.flatten(0, 1))
        for name, vectors in found.items():
            self.get_submodule(name)(torch.cat(vectors))

    def _states(self, hx: Any, steps: Tensor, rows: slice | None = None) -> list[Tensor]:
        """The first states: hidden, and for an LSTM those of the cells; (layers, batch, size)."""
        if hx is None:
            layers = self.num_layers * (1 + self.bidirectional)
            sizes = [self.proj_size or self.hidden_size, self.hidden_size]
            count = 2 if self.mode == "LSTM" else 1
            return [steps.new_zeros(layers, steps.shape[1], size) for size in sizes[:count]]
        given = list(hx) if isinstance(hx, tuple) else [hx]
        given = [state if state.ndim == 3 else state[:, None] for state in given]
        return given if rows is None else [state[:, rows] for state in given]

    def _multiplied(self, x: Tensor, states: list[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Of each weight, its name and what it multiplies, (steps, batch, in)."""
        for layer in range(self.num_layers):
            outputs = []
            for reverse in (False, True)[: 1 + self.bidirectional]:
                place = layer * (1 + self.bidirectional) + reverse
                suffix = f"l{layer}{'_reverse' if reverse else ''}"
                cell = [state[place] for state in states]
                yield f"ih_{suffix}", x
                before, inner, after = self._loop(x.flip(0) if reverse else x, cell, suffix)
                found = {f"hh_{suffix}": before} | ({f"hr_{suffix}": inner} if inner else {})
                for name, steps in found.items():
                    stacked = torch.stack(steps)
                    yield name, stacked.flip(0) if reverse else stacked
                stacked = torch.stack(after)
                outputs.append(stacked.flip(0) if reverse else stacked)
            x = torch.cat(outputs, dim=-1)

    def _loop(
        self, x: Tensor, states: list[Tensor], suffix: str
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The hidden states before each step, those before their projection, and those after it.

        Source: the equations in PyTorch's documentation of LSTM, GRU and RNN.
        """
        hidden, *cell = states
        before, inner, after = [], [], []
        parts = [f"{part}_{suffix}" for part in ("ih", "hh")]
        by_input, by_hidden = [getattr(self, f"weight_{part}") for part in parts]
        input_bias, bias = [getattr(self, f"bias_{part}", None) for part in parts]
        for step in x:
            before.append(hidden)
            given, kept = F.linear(step, by_input, input_bias), F.linear(hidden, by_hidden, bias)
            if self.mode == "LSTM":
                enter, forget, new, leave = (given + kept).chunk(4, dim=-1)
                cell = [forget.sigmoid() * cell[0] + enter.sigmoid() * new.tanh()]
                hidden = leave.sigmoid() * cell[0].tanh()
            elif self.mode == "GRU":
                resets, updates, news = zip(given.chunk(3, -1), kept.chunk(3, -1), strict=True)
                share = (updates[0] + updates[1]).sigmoid()
                new = (news[0] + (resets[0] + resets[1]).sigmoid() * news[1]).tanh()
                hidden = (1 - share) * new + share * hidden
            else:
                hidden = (given + kept).relu() if self.mode == "RNN_RELU" else (given + kept).tanh()
            if self.proj_size:
                inner.append(hidden)
                hidden = F.linear(hidden, getattr(self, f"weight_hr_{suffix}"))
            after.append(hidden)
        return before, inner, after


class OpenLSTM(OpenRecurrent, nn.LSTM):
    pass


class OpenGRU(OpenRecurrent, nn.GRU):
    pass


class OpenRNN(OpenRecurrent, nn.RNN):
    pass


KINDS: dict[type[nn.RNNBase], type[OpenRecurrent]] = {
    nn.LSTM: OpenLSTM,
    nn.GRU: OpenGRU,
    nn.RNN: OpenRNN,
}


class RecurrentOpener(Opener):
    """LSTM, GRU and RNN of any number of layers, directions and projections."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        if not any(is_of(module, known) for known in KINDS) or isinstance(module, Host):
            return ()
        assert isinstance(module, nn.RNNBase)
        if set(module._parameters) != set(module._flat_weights_names) or module._modules:
            return ()  # Its weights are made of other tensors.
        return tuple(inner_names(module).values())

    def open(self, module: nn.Module) -> nn.Module:
        assert isinstance(module, nn.RNNBase)
        known, own = next(pair for pair in KINDS.items() if isinstance(module, pair[0]))
        return own.of(module, known.__name__, inner_names(module))


def inner_names(module: nn.RNNBase) -> dict[str, str]:
    """Of each weight, such as ``weight_ih_l0``, the name of its module, such as ``ih_l0``."""
    names = [name for name in module._flat_weights_names if name.startswith("weight_")]
    return {name: name.removeprefix("weight_") for name in names}

"""Cells of recurrent layers, which a model steps through itself."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowrank.model.host import Host
from lowrank.model.opened.opener import Opener, is_of

INNER = {"weight_ih": "ih", "weight_hh": "hh"}


class OpenCell(Host, nn.RNNCellBase):
    """A cell that reads the weights of all its gates from modules."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """As PyTorch's; in calibration each weight is called with what it multiplies as well."""
        if self.calls_weights:
            state = hx[0] if isinstance(hx, tuple) else hx
            if state is None:
                state = input.new_zeros(*input.shape[:-1], self.hidden_size)
            self.get_submodule("ih")(input)
            self.get_submodule("hh")(state)
        return super().forward(input, hx)


class OpenLSTMCell(OpenCell, nn.LSTMCell):
    pass


class OpenGRUCell(OpenCell, nn.GRUCell):
    pass


class OpenRNNCell(OpenCell, nn.RNNCell):
    pass


KINDS: dict[type[nn.RNNCellBase], type[OpenCell]] = {
    nn.LSTMCell: OpenLSTMCell,
    nn.GRUCell: OpenGRUCell,
    nn.RNNCell: OpenRNNCell,
}


class CellOpener(Opener):
    """LSTMCell, GRUCell and RNNCell."""

    def weights(self, module: nn.Module) -> tuple[str, ...]:
        if not any(is_of(module, known) for known in KINDS) or isinstance(module, Host):
            return ()
        own = all(isinstance(module._parameters.get(name), nn.Parameter) for name in INNER)
        return tuple(INNER.values()) if own and not module._modules else ()

    def open(self, module: nn.Module) -> nn.Module:
        known, own = next(pair for pair in KINDS.items() if isinstance(module, pair[0]))
        return own.of(module, known.__name__, INNER)

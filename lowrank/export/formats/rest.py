"""What a model holds besides its factorizations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lowrank.files.tensor_files import check_storable
from lowrank.model.contents import contents, names_of
from lowrank.model.factorized import FactorizedLayer


def rest_bytes(model: nn.Module) -> int:
    """Bytes of all tensors outside of factorizations, each in its own dtype; tied ones once."""
    return sum(tensor.nbytes for tensor in rest(model).values())


def rest(model: nn.Module) -> dict[str, Tensor]:
    """The tensors outside of factorizations, by name; tied ones once."""
    inside = {
        id(tensor)
        for layer in model.modules()
        if isinstance(layer, FactorizedLayer)
        for tensor in layer.factorization.state_dict(keep_vars=True).values()
    }
    found = contents(model)
    state = model.state_dict(keep_vars=True)
    names = [*found.tensors, *found.views]
    return {name: state[name] for name in names if id(state[name]) not in inside}


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a dense model as files of other tools have them: on the CPU, contiguous, each
    with memory of its own, tied ones once under their first name.

    Raises:
        ValueError: a tensor that no file holds, or extra state that is no tensor.
    """
    found = contents(model)
    if found.extra:
        raise ValueError(
            f"the extra state {names_of(list(found.extra))} is no tensor, and only files of "
            "lowrank.save hold it"
        )
    tensors: Mapping[str, Tensor] = model.state_dict()
    plain: dict[str, Tensor] = {}
    for name in [*found.tensors, *found.views]:
        check_storable(name, tensors[name])
        own = tensors[name].detach().cpu().contiguous()
        plain[name] = own.clone() if name in found.views else own
    return plain

"""What a model takes: bytes of its saved file, learned values, trained values."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor, nn

from lowrank.factorizations import Leaf
from lowrank.factorizations.factorization import dtype_name
from lowrank.factorized import FactorizedEmbedding, FactorizedLayer
from lowrank.layers import rule_for


def nbytes(model: nn.Module) -> int:
    """Bytes of the tensors in the saved file: its size less its header.

    Everything in `state_dict` counts, so also indices, scales, codebooks and the running statistics
    of BatchNorm; a tensor that has several names, as in tied modules, counts once.
    """
    return sum(tensor.nbytes for tensor in _stored(model).values())


def body_bytes(model: nn.Module) -> int:
    """`nbytes` without embedding tables and the last weight, normally the output head.

    Papers on language models mostly compress and count the rest alone. Left out whether they are
    compressed or not; a table or head that others share is left out too.
    """
    weights, outside = [], []
    for module in model.modules():
        if isinstance(module, nn.Embedding | FactorizedEmbedding):
            outside.append(module)
        if isinstance(module, FactorizedLayer) or rule_for(module) is not None:
            weights.append(module)
    left_out = {name for module in [*outside, *weights[-1:]] for name in _stored(module)}
    return sum(t.nbytes for name, t in _stored(model).items() if name not in left_out)


def stored_dtype(model: nn.Module) -> str:
    """The dtypes of the floating-point tensors in the saved file, that of most bytes first."""
    taken: dict[str, int] = {}
    for tensor in _stored(model).values():
        if tensor.is_floating_point():
            name = dtype_name(tensor.dtype)
            taken[name] = taken.get(name, 0) + tensor.nbytes
    return "+".join(sorted(taken, key=lambda name: -taken[name])) or "none"


def _stored(model: nn.Module) -> dict[Hashable, Tensor]:
    """The tensors of the saved file, each once."""
    tensors = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    return {identity(tensor): tensor for tensor in tensors}


def params(model: nn.Module) -> int:
    """Stored learned values, each once: non-zeros of a sparse leaf, codes of a quantized one.

    Masks, indices, scales and running statistics are not learned values, though they take bytes.
    """
    seen: set[Hashable] = set()
    total = 0
    for leaf in leaves(model):
        tensors = {identity(tensor) for tensor in [*leaf.parameters(), *leaf.buffers()]}
        if not tensors <= seen:
            total += leaf.params
        seen |= tensors
    others = {identity(p): p.numel() for p in model.parameters() if identity(p) not in seen}
    return total + sum(others.values())


def trainable_params(model: nn.Module) -> int:
    """Values that an optimizer would change: parameters that require a gradient, each once."""
    return sum(tensor.numel() for tensor in _trained(model))


def trainable_bytes(model: nn.Module) -> int:
    """Bytes of those values: of LoRA's adapters, what is saved beside a base that others have."""
    return sum(tensor.nbytes for tensor in _trained(model))


def leaves(model: nn.Module) -> list[Leaf]:
    """The outermost leaves of all factorizations in a model, each once.

    A leaf may hold another for its values, as a pruned and quantized one does; the outer one counts
    for both.
    """
    found = [module for module in model.modules() if isinstance(module, Leaf)]
    inner = {id(m) for leaf in found for m in leaf.modules() if m is not leaf}
    return [leaf for leaf in found if id(leaf) not in inner]


def _trained(model: nn.Module) -> list[Tensor]:
    trained = {identity(p): p for p in model.parameters() if p.requires_grad}
    return list(trained.values())


def identity(tensor: Tensor) -> Hashable:
    """Equal for two tensors that are the same numbers in the same memory."""
    return (
        tensor.device,
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
    )

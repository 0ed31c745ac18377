"""Size of a model: bytes of its saved file, learned values, trainable values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable

from torch import Tensor, nn

from lowrank.factorizations import Leaf
from lowrank.model.contents import contents, split_extra, views_among
from lowrank.model.factorized import FactorizedEmbedding, FactorizedLayer
from lowrank.model.layers import rule_for
from lowrank.model.shared_memory import identity as identity
from lowrank.numerics import storage
from lowrank.numerics.storage import dtype_name


def nbytes(model: nn.Module) -> int:
    """Bytes of the tensors in the saved file: its size less its header.

    Everything in `state_dict` counts, so also indices, scales, codebooks and the running statistics
    of BatchNorm; memory that has several names, as in tied modules, counts once. A tensor of 32 or
    64 bits whose numbers all fit in 16 counts as one of 16 (see `numerics.storage`), so that the
    size of weights published in float16 is that of the published file in every dtype.

    Raises:
        ValueError: two tensors share part of their memory.
    """
    return sum(map(storage.stored_bytes, contents(model).stored))


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
    found = contents(model)
    inside = {identity(t) for m in [*outside, *weights[-1:]] for t in _tensors(m).values()}
    left_out = {found.owner(n) for n, t in _tensors(model).items() if identity(t) in inside}
    kept = [tensor for name, tensor in found.tensors.items() if name not in left_out]
    return sum(map(storage.stored_bytes, [*kept, *found.stored[len(found.tensors) :]]))


def stored_dtype(model: nn.Module) -> str:
    """The floating dtypes in which a model is stored, such as ``float16`` or ``float16+float32``.

    Those of at least a tenth of its bytes, the largest share first, or ``none``; see
    `numerics.storage`.
    """
    shares: Counter[str] = Counter()
    for tensor in contents(model).stored:
        dtype = storage.stored_dtype(tensor)
        if dtype.is_floating_point:
            shares[dtype_name(dtype)] += tensor.numel() * dtype.itemsize
    named = [name for name, count in shares.most_common() if count >= shares.total() / 10]
    return "+".join(named) or "none"


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return split_extra(module.state_dict())[0]


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
    others = _once(p for p in model.parameters() if identity(p) not in seen)
    return total + sum(tensor.numel() for tensor in others)


def trainable_params(model: nn.Module) -> int:
    """Values that an optimizer would change: parameters that require a gradient, each once."""
    return sum(tensor.numel() for tensor in _trained(model))


def trainable_bytes(model: nn.Module) -> int:
    """Bytes of those values: of LoRA's adapters, what is saved beside a base that others have."""
    return sum(map(storage.stored_bytes, _trained(model)))


def leaves(model: nn.Module) -> list[Leaf]:
    """The outermost leaves of all factorizations in a model, each once.

    A leaf may hold another for its values, as a pruned and quantized one does; the outer one counts
    for both.
    """
    found = [module for module in model.modules() if isinstance(module, Leaf)]
    inner = {id(m) for leaf in found for m in leaf.modules() if m is not leaf}
    return [leaf for leaf in found if id(leaf) not in inner]


def _trained(model: nn.Module) -> list[Tensor]:
    return _once(p for p in model.parameters() if p.requires_grad)


def _once(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Those among tensors whose memory no other one has."""
    different = {
        str(place): t for place, t in enumerate({identity(t): t for t in tensors}.values())
    }
    views = views_among(different)
    return [tensor for name, tensor in different.items() if name not in views]

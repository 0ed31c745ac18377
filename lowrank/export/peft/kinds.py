"""How PEFT lays the factors of an adapter out, by the kind of layer.

A `Kind` knows one: which tensors there are, and which layers PEFT would run otherwise than this
library does. A new kind is a line in `KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lowrank.model.factorized import FactorizedLayer
from lowrank.model.layers import Rule

Tensors = Mapping[str, Tensor]


# The end of the name of the lengths of rows (DoRA).
LENGTHS = "lora_magnitude_vector"


class Kind(ABC):
    """The layout of the factors left (out, rank) and right (rank, in) for one kind of layer.

    Laws: `factors(module, tensors(module, left, right))` are left and right, to the bit.
    """

    down, up = "lora_A.weight", "lora_B.weight"
    # Whether PEFT adapts a weight that the layer, or one around it, reads and never calls.
    reads = False

    def refusal(self, module: Any) -> str:
        """Why PEFT would compute something else for such a layer; empty if it does not."""
        del module
        return ""

    def lengths_refusal(self, module: Any) -> str:
        """Why PEFT would give other vectors than the rows of the weight their lengths (DoRA)."""
        del module
        return ""

    def times(self, module: Any) -> int:
        """How many times the rank of the factors the rank is that PEFT counts."""
        del module
        return 1

    @abstractmethod
    def tensors(self, module: Any, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """What the file holds, by the end of its name."""

    @abstractmethod
    def factors(self, module: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
        """left and right of tensors of the shapes that `tensors` gives.

        Raises:
            ValueError: they are no product of such factors.
        """

    def lengths(self, module: Any, values: Tensor) -> Tensor:
        """The lengths of rows (out,) as the file holds them."""
        del module
        return values


class LinearKind(Kind):
    """x → left (right x), as `nn.Linear`s without bias."""

    def tensors(self, module: Any, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {self.down: right, self.up: left}

    def factors(self, module: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
        return tensors[self.up], tensors[self.down]


class AttentionKind(LinearKind):
    """The packed projection of an attention, whose weight PEFT changes for the time of a call."""

    reads = True

    def lengths_refusal(self, module: Any) -> str:
        return "it has none of an attention"


class DiagonalKind(LinearKind):
    """AdaLoRA: a diagonal between two factors, which are parameters and no modules."""

    down, up, middle = "lora_A", "lora_B", "lora_E"

    def tensors(self, module: Any, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return super().tensors(module, left, right) | {self.middle: right.new_ones(len(right), 1)}


class DiagonalConvolutionKind(DiagonalKind):
    """The same of a convolution, whose factors PEFT multiplies out to a kernel."""

    def refusal(self, module: Any) -> str:
        if module.padding_mode != "zeros":
            return f"PEFT pads its adapter's inputs by zeros, and not by {module.padding_mode!r}"
        return "PEFT has no AdaLoRA of convolutions with groups" if module.groups > 1 else ""


class TableKind(Kind):
    """Rows of left, times right: both are stored transposed."""

    down, up = "lora_embedding_A", "lora_embedding_B"

    def lengths_refusal(self, module: Any) -> str:
        return "of a table it gives the columns their lengths, and not the rows"

    def tensors(self, module: Any, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {self.down: left.T, self.up: right.T}

    def factors(self, module: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
        return tensors[self.down].T, tensors[self.up].T


class ConvolutionKind(Kind):
    """A convolution to `rank` channels, and one of a single position to the outputs.

    Of a layer with groups PEFT's first convolution has none: it reads all channels, and each group
    of the second has channels of its own. The right factor, which all groups share here, stands
    there once for each group, with zeros for the channels of the others.
    """

    def refusal(self, module: Any) -> str:
        if any(step != 1 for step in module.dilation):
            return f"PEFT leaves the dilation {module.dilation} out of its adapter"
        if module.padding_mode != "zeros":
            return f"PEFT pads its adapter's inputs by zeros, and not by {module.padding_mode!r}"
        return ""

    def lengths_refusal(self, module: Any) -> str:
        return "it multiplies the factors out without regard to groups" if module.groups > 1 else ""

    def times(self, module: Any) -> int:
        return module.groups

    def tensors(self, module: Any, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        groups, rank = module.groups, right.shape[0]
        kernel = right.reshape(rank, -1, *module.kernel_size)
        channels = kernel.shape[1]
        down = right.new_zeros(groups, rank, groups * channels, *module.kernel_size)
        for group in range(groups):
            down[group, :, group * channels : (group + 1) * channels] = kernel
        up = left[(..., *(None,) * len(module.kernel_size))]
        return {self.down: down.flatten(0, 1), self.up: up}

    def factors(self, module: Any, tensors: Tensors) -> tuple[Tensor, Tensor]:
        groups = module.groups
        down = tensors[self.down].unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
        own = [down[group, :, group] for group in range(groups)]
        others = sum(int(part.count_nonzero()) for part in own)
        if int(down.count_nonzero()) != others or any(not part.equal(own[0]) for part in own):
            raise ValueError(
                f"its adapter joins the {groups} groups of the convolution, whose kernel reads the "
                "channels of one group only"
            )
        return tensors[self.up].flatten(1), own[0].flatten(1)

    def lengths(self, module: Any, values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * len(module.kernel_size))


CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
# By what a `FactorizedLayer` calls the kind of layer that it stands in for.
KINDS: dict[str, Kind] = {
    "linear": LinearKind(),
    "embedding": TableKind(),
    **{name.lower(): ConvolutionKind() for name in CONVOLUTIONS},
}
# Those that are read only: PEFT may mend how often it adds the change of the output projection.
READ_KINDS: dict[str, Kind] = {**KINDS, "attention": AttentionKind()}
DIAGONAL_KINDS: dict[str, Kind] = {"linear": DiagonalKind(), "conv2d": DiagonalConvolutionKind()}
# The same by what a `Rule` calls the class of a dense layer.
WORDS: dict[str, str] = {
    "Linear": "linear",
    "Conv1D": "linear",
    "Embedding": "embedding",
    "MultiheadAttention": "attention",
    **{name: name.lower() for name in CONVOLUTIONS},
}


def kind_of(
    module: nn.Module,
    rule: Rule | None,
    kinds: Mapping[str, Kind] = KINDS,
    is_inside: bool = False,
) -> Kind:
    """The layout for a layer.

    Args:
        rule: of the layer; None of one that has a factorization already.
        kinds: those that the type of adapter has.
        is_inside: whether it is the projection of an attention that is adapted with it.

    Raises:
        ValueError: PEFT has none, or would compute something else.
    """
    if isinstance(module, FactorizedLayer):
        word, view = module.kind, module.view
    else:
        word, view = WORDS.get(rule.kind(module), "") if rule else "", "channel"
    kind = kinds.get(word)
    if kind is None:
        raise ValueError(
            f"there is no place for an adapter of a {type(module).__name__}: PEFT has none of this "
            f"type, or one that it adds otherwise, as of experts and, when written, of attention. "
            f"Allowed are {sorted(kinds)}"
        )
    refused = kind.refusal(module)
    if rule is not None and not (kind.reads or is_inside or rule.is_called(module)):
        refused = "another module reads its weight and never calls it, and PEFT's adapter with it"
    if view != "channel":
        refused = f"its kernel is seen as a matrix in the view {view!r}, and adapters in 'channel'"
    if refused:
        raise ValueError(f"it cannot be adapted as PEFT does: {refused}")
    return kind

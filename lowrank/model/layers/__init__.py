"""Rules for the kinds of layers: their weight as a matrix, and the module that replaces them.

A `Rule` knows one kind of module: where its weight is, how the weight is a matrix, and which module
runs a factorization in its place. A new kind of layer is a new rule in `RULES`, or, if its weights
are no parameters that a rule could replace, an opener in `lowrank.model.opened`.
"""

from torch import nn

from lowrank.approximation.weight_checks import DTYPES
from lowrank.factorizations import Factorization
from lowrank.model.layers.attention import MultiheadAttentionRule
from lowrank.model.layers.bilinear import BilinearRule
from lowrank.model.layers.convolution import ConvolutionRule
from lowrank.model.layers.embedding import EmbeddingRule
from lowrank.model.layers.linear import LinearRule, TransformersConv1DRule
from lowrank.model.layers.read import ReadWeightRule
from lowrank.model.layers.rule import Rule as Rule

RULES: tuple[Rule, ...] = (
    LinearRule(),
    *(ConvolutionRule(known) for known in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    *map(ConvolutionRule, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
    BilinearRule(),
    EmbeddingRule(),
    TransformersConv1DRule(),
    MultiheadAttentionRule(),
    ReadWeightRule(),
)


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that knows this module, if there is one."""
    return next((rule for rule in RULES if rule.fits(module)), None)


def why_no_rule(module: nn.Module) -> str:
    """Why a module whose weight is a matrix is not compressed."""
    kinds = [kind for kind in (rule.module_type() for rule in RULES) if kind is not None]
    if not isinstance(module, tuple(kinds)):
        if isinstance(module, Factorization):
            return (
                "a part of a factorization, which `lowrank.recovery.DecomposeLeaves` compresses; "
                "`lowrank.plain_model` makes a model of dense layers of this one"
            )
        return f"no rule for a {type(module).__name__}, whose own code uses it"
    if "forward" in vars(module):
        return "its `forward` was set on this one module, and would be lost"
    if rule_for(module) is None:
        dtypes = {p.dtype for p in module.parameters(recurse=False)} - set(DTYPES)
        if dtypes:
            return (
                f"no method computes with {', '.join(map(str, dtypes))}: convert the model first, "
                "as by model.to(torch.bfloat16), with its scales if it has any"
            )
        return (
            f"no rule for a {type(module).__name__} that computes something of its own, or holds "
            "other tensors or modules beside its weight"
        )
    return "no rule for another module that uses it"

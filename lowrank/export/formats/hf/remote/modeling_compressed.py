"""A model of `transformers` whose layers hold their weights in compressed forms.

Needs torch and transformers alone. It builds the original model, ORIGINAL, and puts the forms that
``compressed_layers`` of the config describes in the place of its weights.
"""

import transformers
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from .matrix_forms import MatrixForm, form_of

ORIGINAL = "PreTrainedModel"


class CompressedLinear(nn.Module):
    """y = x Wᵀ + bias. Of layers that share a form, the first holds it."""

    def __init__(self, form: MatrixForm, bias: nn.Parameter | None, is_first: bool) -> None:
        super().__init__()
        self.bias, self.held = bias, (form,)
        if is_first:
            self.factorization = form

    @property
    def weight(self) -> Tensor:
        return self.held[0].kept()

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](x, self.bias)


def reading(module: nn.Module, form: MatrixForm, place: dict, is_first: bool) -> nn.Module:
    """A module of any other class, which reads its weight as one tensor."""
    name, shape = place["weight"], place["shape"]
    if is_parametrized(module, name):
        remove_parametrizations(module, name)
    delattr(module, name)
    cls = type(module)
    weight = property(lambda self: self.held[0].kept().reshape(shape))
    module.__class__ = type(f"Compressed{cls.__name__}", (cls,), {name: weight})
    vars(module)["held"] = (form,)
    if is_first:
        module.factorization = form
    return module


class CompressedModel(getattr(transformers, ORIGINAL)):
    """The original model with the layers exchanged."""

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        for layer in config.compressed_layers:
            form = form_of(layer["form"])
            for number, place in enumerate(layer["modules"]):
                module = self.get_submodule(place["name"])
                if place["is_linear"]:
                    module = CompressedLinear(form, module.bias, number == 0)
                else:
                    module = reading(module, form, place, number == 0)
                self.set_submodule(place["name"], module)
        self.train(self.training)

    def _init_weights(self, module):
        if not hasattr(module, "held") and not isinstance(module, MatrixForm):
            super()._init_weights(module)

    def get_expanded_tied_weights_keys(self, *args, **kwargs):
        """Without the weights that are forms, which modules share by themselves."""
        found = super().get_expanded_tied_weights_keys(*args, **kwargs)
        places = [place for layer in self.config.compressed_layers for place in layer["modules"]]
        gone = {f"{place['name']}.{place['weight']}" for place in places}
        return {name: other for name, other in found.items() if not {name, other} & gone}

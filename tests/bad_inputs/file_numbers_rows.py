"""Numbers that no form has, and views of nothing, in files that are whole."""

import hostile
import torch
from files import BLOCKS, ENTROPY, FEW, FOUR_BITS, INF, NAN, PRUNED, ZEROS, linear, monarch, saved
from row import Row
from torch import nn

from lowrank.export import checkpoint
from lowrank.files import tensor_files


def numbers(method, name, value, says, layer=linear):
    """Load a file with other numbers in one tensor of the factorization."""

    def act(folder):
        path = saved(folder, layer, method)
        with tensor_files.opened(path, "model", checkpoint.FORMAT, "save") as file:
            (tensors, _), own = file.read(), dict(file.header)
        key = f"0.factorization.{name}"
        tensors[key] = value(tensors[key]) if callable(value) else value
        del own["dtypes"], own["kind"]
        tensor_files.write(path, tensors, "model", own)
        return checkpoint.load(path, nn.Sequential(layer()))

    return Row(f"{type(method).__name__} {name}: {says}", act, says)


def at(place, number):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[place] = number
        return tensor

    return change


def law(*values):
    return torch.tensor(values, dtype=torch.float32).view(torch.uint8)


NUMBERS = [
    numbers(FOUR_BITS, "scale", at(0, NAN), "1 of 8 numbers in 'scale' are NaN or infinite"),
    numbers(ZEROS, "scale", at(3, -INF), "1 of 24 numbers in 'scale' are NaN"),
    numbers(FEW, "columns", at(0, 12), "1 columns of a sparse matrix lie outside 0..11"),
    numbers(FEW, "row_pointers", at(0, 1), "rise from 0 to 1,"),
    numbers(FEW, "row_pointers", at(8, 9), "the number of its kept blocks"),
    numbers(FEW, "row_pointers", at(1, 3), "keeps 0 weights|row pointers"),
    numbers(PRUNED, "bitmask", lambda t: ~t & 254, "keeps .* weights, and it has 48 values"),
    numbers(BLOCKS, "bitmask", at(0, 1), "keeps 12 weights, and it has 48 values"),
    numbers(ENTROPY, "stream", lambda t: t.flip(0), "stream of entropy codes cannot be decoded"),
    numbers(ENTROPY, "numbers", law(-1, 1, 0), "are -1.0, 1.0 and 0.0: below 0"),
    numbers(ENTROPY, "numbers", law(NAN, 1, 0), "are nan, 1.0 and 0.0"),
    numbers(ENTROPY, "numbers", law(1, INF, 0), "are 1.0, inf and 0.0"),
    numbers(ENTROPY, "numbers", law(1, 0, 0), "a stream of entropy codes cannot be"),
    numbers(ENTROPY, "numbers", law(1, 30, 30), "entropy codes cannot be decoded: it is"),
    numbers(monarch(), "ranks", at(0, 2), "ranks of sum 5 do not fit factors of 4"),
]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)
        self.b.weight = nn.Parameter(self.a.weight.T)


def view(**fields):
    def act(folder):
        checkpoint.save(Shared(), folder / "m")
        path = hostile.edited(folder / "m", lambda own: own["views"]["b.weight"].update(fields))
        return checkpoint.load(path, Shared())

    return act


VIEWS = [
    Row("view that begins too late", view(offset=1), "reaches beyond 'a.weight' of 12 numbers"),
    Row("view of large steps", view(stride=[1, 100]), "reaches beyond 'a.weight'"),
    Row("view of another shape", view(shape=[3, 4]), r"'b.weight' is \(3, 4\) .* in the file"),
    Row("view of other dimensions", view(shape=[12], stride=[1]), r"'b.weight' is \(12,\)"),
    Row("view with a step less", view(stride=[1]), "stride is .1.: it must be 2 integers"),
    Row("view backwards", view(stride=[-1, 4]), "stride is -1"),
    Row("view of itself", view(base="b.weight"), "base is 'b.weight'"),
    Row("view of what is not there", view(base="c.weight"), "base is 'c.weight'"),
    Row("view from half a number", view(offset=0.5), "offset is 0.5: it must be an integer"),
]

ROWS = [*NUMBERS, *VIEWS]

"""Models that other tools have compressed, read into factorizations."""

from lowrank.files.fields import Fields
from lowrank.reading.awq import Awq
from lowrank.reading.bits_and_bytes import BitsAndBytes
from lowrank.reading.compressed_tensors import CompressedTensors
from lowrank.reading.gguf import open_gguf as open_gguf
from lowrank.reading.gptq import Gptq
from lowrank.reading.read import ReadModel as ReadModel
from lowrank.reading.read import read_model as read_model
from lowrank.reading.scheme import Scheme
from lowrank.reading.stored import stored_in as stored_in

# The ways of storing layers that are read, by their names in a config.
SCHEMES: dict[str, type[Scheme]] = {
    one.method: one for one in (Awq, BitsAndBytes, CompressedTensors, Gptq)
}


def scheme_of(config: object) -> Scheme:
    """The way of storing layers that the field ``quantization_config`` of a config describes.

    Raises:
        ValueError: one that is not read.
    """
    fields = Fields(config, "quantization_config")
    return SCHEMES[fields.one_of("quant_method", SCHEMES)].of(fields)

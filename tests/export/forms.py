"""The forms of weights that exporters are tested with: a method for each."""

from made_forms import AsRead

from lowrank import (
    GPTQ,
    Chain,
    CodebookQuantization,
    EntropyCodedQuantization,
    HalfPrecision,
    LoRA,
    LowRankPlusSparse,
    LowRankTimesSparse,
    MagnitudePruning,
    Monarch,
    Quantization,
    QuantizedPlusLowRank,
    TruncatedSVD,
    Uncompressed,
)

# Groups of 32 divide widths of 64 and 128.
FORMS = {
    "dense": Uncompressed(),
    "half precision": HalfPrecision(),
    "low rank": TruncatedSVD(compression_ratio=2.0),
    "quantized, 8 bits per row": Quantization(bits=8),
    "quantized, 4 bits per row": Quantization(bits=4),
    "quantized, 4 bits, groups of 32": Quantization(bits=4, group_size=32),
    "quantized, 4 bits, groups of 32, zero points": Quantization(
        bits=4, group_size=32, symmetric=False
    ),
    "quantized, 3 bits, groups of 32": Quantization(bits=3, group_size=32),
    "codebook": CodebookQuantization(bits=4),
    "entropy coded": EntropyCodedQuantization(bits=4),
    "sparse": MagnitudePruning(0.5),
    "sparse 2:4": MagnitudePruning(pattern="2:4"),
    "pruned and quantized": Chain([MagnitudePruning(0.5), Quantization(bits=4)]),
    "quantized low rank": Chain([TruncatedSVD(compression_ratio=2.0), Quantization(bits=8)]),
    "quantized + low rank": QuantizedPlusLowRank(rank=4, base=GPTQ(bits=4), iterations=1),
    "low rank + sparse": LowRankPlusSparse(rank=4, sparsity=0.9, iterations=2),
    "low rank × sparse": LowRankTimesSparse(rank=16, sparsity=0.5, iterations=2),
    "adapter": LoRA(rank=4, alpha=8),
    "adapter over 4 bits": LoRA(rank=4, alpha=8, base=Quantization(bits=4, group_size=32)),
    "product of sparse factors": Monarch(blocks=(8, 8)),
    "levels of a table, groups of 32": AsRead("levels of a table", 32),
    "codes with minima, groups of 32": AsRead("minima", 32),
}

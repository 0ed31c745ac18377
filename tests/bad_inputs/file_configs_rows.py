"""Configs of factorizations, edited by hand in the header of a file."""

from files import BLOCKS, ENTROPY, FOUR_BITS, PRUNED, ZEROS, convolution, header, linear, monarch
from row import Row

from lowrank.decomposers import (
    CanonicalPolyadic,
    CodebookQuantization,
    EntropyCoding,
    HalfPrecision,
    LoRA,
    MagnitudePruning,
    TruncatedSVD,
)
from lowrank.factorizations import rebuild


def config(method, layer=linear, **fields):
    def change(own):
        own["layers"][0]["config"].update(fields)

    return header(change, method, layer)


def config_is(value):
    def change(own):
        own["layers"][0]["config"] = value

    return header(change)


def config_without(name, method=FOUR_BITS):
    def change(own):
        del own["layers"][0]["config"][name]

    return header(change, method)


def gaps(**fields):
    def change(own):
        own["layers"][0]["config"]["index"].update(fields)

    return header(change, EntropyCoding(MagnitudePruning(0.9), "fixed", 4))


def nested(times):
    value = {"type": "Dense", "shape": [8, 12], "dtype": "float32"}
    for _ in range(times):
        value = {"type": "Scaled", "scale": 1.0, "dropout": 0.0, "term": value}
    return value


SVD, ADAPTED = TruncatedSVD(rank=2), LoRA(rank=2, alpha=4)
CODES, HALF = CodebookQuantization(2), HalfPrecision()
WIDTHS = dict.fromkeys(("row_step", "column_step", "row_spread", "column_spread"), 0)
ROWS = [
    Row("config is null", config_is(None), "config must be a mapping of fields, not None"),
    Row("config is a list", config_is([]), r"config must be a mapping of fields, not \[\]"),
    Row("config without type", config_without("type"), "config lacks 'type'"),
    Row("type is null", config(FOUR_BITS, type=None), "type is None: it must be a text"),
    Row("type is a mapping", config(FOUR_BITS, type={}), "type is {}: it must be a text"),
    Row("type of nothing", config(FOUR_BITS, type="Tensor"), "type 'Tensor' is not known"),
    Row("type of a base class", config(FOUR_BITS, type="Leaf"), "type 'Leaf' is not known"),
    Row("type of another form", config(FOUR_BITS, type="Half"), "lacks 'stored_dtype'"),
    Row("nested beyond all need", config_is(nested(40)), "it must be of at most|more than 64 deep"),
    Row("nested without end", config_is(nested(20) | {"term": "@deep@"}), "not JSON as written"),
    Row("bits are text", config(FOUR_BITS, bits="4"), "bits='4' does not exist"),
    Row("bits are true", config(FOUR_BITS, bits=True), "bits=True does not exist"),
    Row("no bits", config(FOUR_BITS, bits=0), "bits=0 does not exist"),
    Row("nine bits", config(FOUR_BITS, bits=9), "bits=9 does not exist"),
    Row("half a bit", config(FOUR_BITS, bits=4.5), "bits=4.5 does not exist"),
    Row("other bits", config(FOUR_BITS, bits=5), r"'0.factorization.codes' is \(48,\)"),
    Row("group of none", config(FOUR_BITS, group_size=0), "group_size=0 does not exist"),
    Row("group of a word", config(FOUR_BITS, group_size="row"), "group_size='row'"),
    Row("group of a list", config(FOUR_BITS, group_size=[4]), r"group_size=\[4\]"),
    Row("other groups", config(FOUR_BITS, group_size=4), r"factorization.scale' is \(8,\)"),
    Row("shape of three", config(FOUR_BITS, shape=[8, 12, 1]), "it must be 2 integers"),
    Row("shape of fractions", config(FOUR_BITS, shape=[8.0, 12]), "shape is 8.0"),
    Row("shape below zero", config(FOUR_BITS, shape=[-8, -12]), "shape is -8"),
    Row("shape of text", config(FOUR_BITS, shape="8x12"), "shape is '8x12': it must be a list"),
    Row("shape of a planet", config(FOUR_BITS, shape=[2**40, 2**40]), "at most .* entries"),
    Row("shape turned", config(FOUR_BITS, shape=[12, 8]), r"\(12, 8\).*in the file"),
    Row("dtype of codes", config(FOUR_BITS, dtype="int8"), "dtype is 'int8': it must be one of"),
    Row("dtype of nothing", config(FOUR_BITS, dtype="Tensor"), "dtype is 'Tensor'"),
    Row("dtype of another model", config(FOUR_BITS, dtype="float64"), r"\(8, 12\) torch.float64"),
    Row("scales of codes", config(FOUR_BITS, scale_dtype="uint8"), "scale_dtype is 'uint8'"),
    Row("no dtype of scales", config_without("scale_dtype"), "lacks 'scale_dtype'"),
    Row("zero points of a kind", config(ZEROS, zero_dtype="int8"), "zero_dtype is 'int8'"),
    Row("zero points forgotten", config(ZEROS, zero_dtype=None), "has .'0.factorization.zero'"),
    Row("zero points invented", config(FOUR_BITS, zero_dtype="uint8"), "lacks .*zero"),
    Row("factors are null", config(SVD, factors=None), "factors is None: it must be a list"),
    Row("no factors", config(SVD, factors=[]), "needs at least 2 factors, got 0"),
    Row("factor is text", config(SVD, factors=["a", "b"]), r"factors\[0\] must be a mapping"),
    Row(
        "factors that do not meet",
        config(SVD, factors=[nested(0), nested(0)]),
        "inner dimensions do not agree",
    ),
    Row("terms of two shapes", config(ADAPTED, terms=[nested(0), nested(1)] * 3), "lacks|at most"),
    Row("one term", config(ADAPTED, terms=[nested(0)]), "needs at least 2 terms"),
    Row("scale without end", config_is(nested(1) | {"scale": float("inf")}), "inf is no number"),
    Row(
        "scale is text", config_is(nested(1) | {"scale": "2"}), "scale is '2': it must be a finite"
    ),
    Row("dropout of all", config_is(nested(1) | {"dropout": 1.0}), r"lie in \[0, 1\)"),
    Row("dropout below zero", config_is(nested(1) | {"dropout": -0.1}), "dropout is -0.1"),
    Row(
        "kept more than there are", config(PRUNED, kept_blocks=97), "kept_blocks is 97: .* most 96"
    ),
    Row("kept below zero", config(PRUNED, kept_blocks=-1), "kept_blocks is -1"),
    Row("kept in another index", config(PRUNED, kept_blocks=1), "factorization.columns"),
    Row("block of no rows", config(PRUNED, block=[0, 1]), "block is 0"),
    Row("block of one number", config(PRUNED, block=[1]), "block is .1.: it must be 2 integers"),
    Row("other blocks", config(BLOCKS, block=[1, 1]), "bitmask"),
    Row("sparse without values", config_without("values", PRUNED), "lacks 'values'"),
    Row("index of a word", config(PRUNED, index="gaps"), "index must be a mapping"),
    Row("gaps of no bits", gaps(bits=0), "index.bits is 0: it must be an integer of at least 1"),
    Row("gaps of other bits", gaps(bits=3), "symbols of 3 bits are"),
    Row("gaps by another coding", gaps(coding="huffman"), "lacks .*gap_table"),
    Row("gaps by none", gaps(coding=None), "index.coding is None: it must be one of"),
    Row("gaps of gigabytes", gaps(stream_bytes=3 * 10**9), "factorization.gaps"),
    Row("more gaps than weights", gaps(entries=97), "index.entries is 97: .* at most 96"),
    Row("fewer gaps", gaps(entries=2), "symbols of 4 bits are"),
    Row("codes by no coding", config(CODES, coding="zip"), "coding is 'zip': it must be one of"),
    Row("codes by another coding", config(CODES, coding="ans"), "lacks .*code_table"),
    Row("codes of gigabytes", config(CODES, stream_bytes=3 * 10**9), "factorization.codes"),
    Row("codebook of more bits", config(CODES, bits=3), "factorization.c"),
    Row(
        "stored in 32 bits", config(HALF, stored_dtype="float32"), "Half needs a matrix of float16"
    ),
    Row("reach of none", config(ENTROPY, reach=0), "a stream of entropy codes cannot be decoded"),
    Row("reach beyond all codes", config(ENTROPY, reach=10**9), "reach is 1000000000"),
    Row("stream of gigabytes", config(ENTROPY, stream_bytes=3 * 10**9), "factorization.stream"),
    Row("stream below zero", config(ENTROPY, stream_bytes=-1), "stream_bytes is -1"),
    Row("width forgotten", config(ENTROPY, widths={}), "widths lacks 'row_step'"),
    Row("width of a page", config(ENTROPY, widths=WIDTHS | {"row_step": 9}), "row_step is 9"),
    Row("widths are a list", config(ENTROPY, widths=[0] * 4), "widths must be a mapping"),
    Row(
        "blocks of no rows",
        config_is({"type": "BlockDiagonal", "count": 0, "values": nested(0)}),
        "count is 0: it must be an integer of at least 1",
    ),
    Row(
        "blocks that rows do not make",
        config_is({"type": "BlockDiagonal", "count": 3, "values": nested(0)}),
        "8 rows are not those of 3 blocks",
    ),
    Row("blocks of none", config_is({"type": "DirectSum", "blocks": []}), "at least 1 block"),
    Row(
        "grid finer than the matrix",
        config(monarch(), grid=[9, 13]),
        "grid is .9, 13.: it must be that of blocks",
    ),
    Row("ranks of another grid", config(monarch(), ranks=[2, 3]), "grid is"),
    Row(
        "columns scaled by nothing",
        config_is({"type": "ScaledColumns", "term": nested(0)}),
        "lacks 'scale_dtype'",
    ),
    Row(
        "kernel of no positions",
        header(
            lambda own: own["layers"][0]["config"]["factors"][1].update(positions=0),
            CanonicalPolyadic(6),
            convolution,
        ),
        "positions is 0",
    ),
    Row("config of no mapping", lambda _: rebuild([]), r"must be a mapping of fields, not \[\]"),
    Row("config of loose ends", lambda _: rebuild({"type": "Sum", "terms": [3]}), r"terms\[0\]"),
]

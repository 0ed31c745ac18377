"""Bad command lines of the sweep program; the model is the MLP on the digits if none is named."""

import importlib.util

import pytest
from command_line import refused
from row import Row

NO_HARNESS = importlib.util.find_spec("lm_eval") is None


def without(package, act):
    """Where a package is not installed."""

    def run(folder):
        find = importlib.util.find_spec
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda n: None if n == package else find(n))
            act(folder)

    return run


OPTIONS = [
    Row("seed is a text", refused("seed=a"), "seed=a must be a whole number from 0 to 4294967295"),
    Row("seed has a fraction", refused("seed=1.5"), "seed=1.5 must be a whole number"),
    Row("seed below 0", refused("seed=-1"), "seed=-1 must be a whole number"),
    Row("seed too large for numpy", refused("seed=4294967296"), "from 0 to 4294967295"),
    Row("seed is null", refused("seed=null"), "seed=None must be a whole number"),
    Row("seed is true", refused("seed=true"), "seed=True must be a whole number"),
    Row("one of three seeds", refused("seed=0,1,x"), "seed=x .*: seed=x must be a whole number"),
    Row("no threads", refused("threads=0"), "threads=0 must be a whole number from 1, or null"),
    Row("half a thread", refused("threads=0.5"), "threads=0.5 must be a whole number"),
    Row("threads is a text", refused("threads=all"), "threads=all must be a whole number"),
    Row("force is a text", refused("force=maybe"), "force=maybe must be true or false"),
    Row("save of some", refused("save.models=some"), "save.models='some' must be one of"),
    Row("a format of nothing", refused("save.format=dense"), "has no effect without save=all or"),
    Row("an unknown format", refused("save=all", "save.format=zip"), "'zip' does not exist: give"),
    Row(
        "an option that the format does not have",
        refused("save=all", "save.format=dense", "+save.options.bits=4"),
        r"has no options \['bits'\]",
    ),
    Row("options of no format", refused("save=all", "+save.options.bits=4"), "without save.format"),
    Row("save is true", refused("save.models=true"), "save.models=True must be one of"),
    Row("force is a number", refused("force=1"), "force=1 must be true or false"),
    Row("device is no device", refused("device=gpu"), "device=gpu cannot be used here; there are:"),
    Row("device is not there", refused("device=cuda:99"), "device=cuda:99 cannot be used here"),
    Row("device without numbers", refused("device=meta"), "device=meta cannot be used here"),
    Row("device is null", refused("device=null"), "device=None must be a text"),
    Row("values in 8 bits", refused("values=int8"), "values=int8 must be one of float16, bfloat16"),
    Row("values of a list", refused("values=[float16]"), "values=.*float16.* must be one of"),
    Row("a level of one's own", refused("level=3"), "Could not override 'level=3'"),
    Row("label refers to none", refused("method_name=${method.rnk}"), "'method.rnk' not found"),
    Row("label is empty", refused("method_name=''"), "method_name='' must be a text that is not"),
    Row("label is a list", refused("method_name=[svd]"), r"method_name=\['svd'\] must be a text"),
    Row(
        "recovery_name is null", refused("recovery_name=null"), "recovery_name=None must be a text"
    ),
    Row(
        "tracker without its extra",
        without("wandb", refused("tracker=offline")),
        "this tracker cannot be had without wandb, which is not installed: pip install",
    ),
    Row("tracker of no mode", refused("tracker=offline", "tracker.mode=live"), "must be online or"),
]

NAMES = [
    Row("sweep is a path", refused("sweep=a/b"), "sweep=a/b must be the name of a folder"),
    Row("sweep is above", refused("sweep='..'"), r"sweep=\.\. must be the name of a folder"),
    Row("sweep is null", refused("sweep=null"), "sweep=None must be a text"),
    Row("sweep is too long", refused(f"sweep={'x' * 300}"), "has 300 bytes; .* at most 255"),
    Row("sweep is long in bytes", refused(f"sweep='{'é' * 200}'"), "has 400 bytes; .* at most 255"),
    Row("sweep is white", refused("sweep=' '"), "sweep=' ' must be a text that is not empty"),
    Row("results in no folder", refused("results=/dev/null/a"), "cannot be written to /dev/null/a"),
    Row(
        "results is a file", refused("results=/etc/hostname"), "cannot be written to /etc/hostname"
    ),
    Row("results is empty", refused("results=''"), "results='' must be a text that is not empty"),
    Row("results too long", refused(f"results=/tmp/{'y' * 256}/z"), "has 256 bytes"),
    Row("results in /proc", refused("results=/proc/lowrank"), "cannot be written to /proc"),
]

WORDS = [
    Row("misspelt field", refused("method.rnk=4"), "Could not override 'method.rnk"),
    Row("misspelt choice", refused("method=svdd"), "Could not find 'method/svdd'"),
    Row("misspelt group", refused("decompser=svd"), "Could not override 'decompser"),
    Row("added group", refused("+decompser=svd"), "nothing reads the field decompser: .* method"),
    Row("misspelt option", refused("thread=1"), "Could not override 'thread"),
    Row(
        "added field",
        refused("+method.rnk=4"),
        "TruncatedSVD has no field rnk: it has rank, energy, compression_ratio",
    ),
    *(
        Row(f"added field of the {group}", refused(*choice, f"+{group}.more=4"), says)
        for group, says, *choice in (
            ("task", "ImageClassification has no field more: it has name, architecture"),
            ("norm", "CalibratedNorms has no field more", "method=gptq"),
            ("method", "GlobalRank has no field more: it has comp", "method=svd_global"),
            ("where", "Select has no field more: it has include"),
            ("recovery", "FineTune has no field more: it has epochs", "recovery=finetune"),
            ("measure", "MeasureSettings has no field more: it has batch_size"),
            ("tracker", "has no field more"),
        )
    ),
    Row("added field of a part", refused("+task.source.more=4"), "Digits has no field more"),
    Row("field of none", refused("+norm.more=4"), "(?s)norm.*more"),
    Row(
        "fields that are not given",
        refused("recovery={_target_: lowrank.recovery.FineTune}"),
        "FineTune lacks its field epochs, learning_rate",
    ),
    Row("unknown experiment", refused("task=digitz"), "Could not find 'task/digitz'"),
    Row("unknown measure", refused("measure=language"), "Could not find 'measure/language'"),
    Row("interval", refused("method.rank=interval(1,4)"), "an interval has no points"),
    Row("bracket is open", refused("method.rank=["), "no viable alternative at input"),
    Row("class that is not there", refused("method._target_=lowrank.None"), "lowrank.None"),
    Row("class of another kind", refused("where._target_=lowrank.tasks.Digits"), "(?s)where"),
    Row(
        "norm of another kind",
        refused("norm={_target_: lowrank.tasks.Digits}", "method=rtn"),
        "norm must be a NormProvider, and is a Digits",
    ),
    Row(
        "grid and command line at odds",
        refused("experiment=digits", "method=svd"),
        "the grid of the experiment sets it, and what the command line chose",
    ),
]

WITHOUT_EFFECT = [
    Row(
        "field of a decomposer under an allocation",
        refused("method=svd_energy", "method.rank=4"),
        "method.rank=4",
    ),
    Row(
        "recipe of a norm under the identity",
        refused("method=svd_llm", "norm=identity"),
        "norm=identity takes no damping",
    ),
    Row("field of a norm under the identity", refused("norm.damping=0.1"), "norm.damping"),
    Row("field of a recovery under none", refused("recovery.epochs=3"), "recovery.epochs"),
    Row(
        "momentum of adamw",
        refused("recovery=finetune", "recovery.momentum=0.5"),
        "momentum=0.5 has no effect with optimizer='adamw'",
    ),
    Row(
        "rate of codes that stay",
        refused("recovery=tune", "recovery.code_rate=0.1"),
        "code_rate=0.1 has no effect without codes",
    ),
    Row(
        "rate of what is not tuned",
        refused("recovery=tune", "recovery.parts=[codes]", "recovery.learning_rate=0.1"),
        r"learning_rate=0.1 has no effect on parts=\['codes'\]",
    ),
    Row(
        "limit of no harness",
        refused("measure.harness_limit=5"),
        "harness_limit=5 has no effect without harness_tasks",
    ),
    Row(
        "seconds of no timing",
        refused("measure=quick", "measure.latency_batch_sizes=[]"),
        "latency_seconds=0.02 has no effect without latency_batch_sizes",
    ),
    Row(
        "kernels of no timing",
        refused("measure=optimized", "measure.latency_batch_sizes=[]"),
        "optimize='exact' has no effect without latency_batch_sizes",
    ),
    Row(
        "threads of no timing",
        refused("measure.latency_batch_sizes=[]", "measure.threads=2"),
        "measure.threads=2 has no effect without measure.latency_batch_sizes",
    ),
    Row(
        "draw of calibration data that nothing reads",
        refused("task.calibration_seed=7", "method=magnitude"),
        "task.calibration_seed=7 has no effect: neither norm, method nor recovery",
    ),
    Row(
        "draws of calibration data that nothing reads",
        refused("task.calibration_seed=0,1", "method=magnitude,svd"),
        "task.calibration_seed=1 has no effect",
    ),
    Row(
        "first calibration data that nothing reads",
        refused("task.calibration_seed=null", "method=magnitude"),
        "task.calibration_seed=null has no effect",
    ),
    Row(
        "power of a full norm",
        refused("method=gptq", "norm.power=0.5"),
        "power=0.5 is for a diagonal",
    ),
    Row(
        "teacher of a dense model",
        refused("task.weights.recipe.distill=0.5"),
        "Key 'distill' is not in struct",
    ),
    Row(
        "scope of a dense model",
        refused("task.weights.recipe.scope=factorizations"),
        "Key 'scope' is not in struct",
    ),
    Row(
        "pattern of layers that are not there",
        refused("where.include=[fc1,conv*]"),
        r"include=\['conv\*'\] matches none of the layers",
    ),
    Row(
        "exclusion of none", refused("where.exclude=[conv*]"), r"exclude=\['conv\*'\] matches none"
    ),
]

SHAPES = [
    Row("rank above all sides", refused("method.rank=200"), "rank=200 does not fit a weight"),
    Row("rank 0", refused("method.rank=0"), "rank=0"),
    Row("rank with a fraction", refused("method.rank=2.5"), "rank=2.5"),
    Row(
        "one rank of two",
        refused("method.rank=8,500"),
        "rank=500 .*: layer 'fc1': rank=500 does not fit a weight",
    ),
    Row("sparsity 1", refused("method=magnitude", "method.sparsity=1"), "sparsity=1"),
    Row("sparsity NaN", refused("method=magnitude", "method.sparsity=nan"), "sparsity=nan"),
    Row("9 bits", refused("method=quantization", "method.bits=9"), "bits=9"),
    Row("no bits", refused("method=gptq", "method.bits=0"), "bits=0"),
    Row("bits of a text", refused("method=codebook", "method.bits=many"), "bits='many'"),
    Row("groups of none", refused("method=rtn", "method.group_size=0"), "group_size=0"),
    Row("two levels at once", refused("method.energy=0.9"), "(?s)rank.*energy"),
    Row("no level", refused("method.rank=null"), "(?s)rank.*energy"),
    Row("more than all", refused("method=nm", "method.pattern=9:8"), "9:8"),
    Row("enlarging", refused("method.rank=null", "method.compression_ratio=0.5"), "0.5"),
    Row("unknown layer", refused("where.include=encoder"), "matches no layer of the model"),
    Row(
        "unknown kind", refused("where.kinds=[Conv2d]"), r"kinds=\['Conv2d'\] are not in the model"
    ),
    Row("all layers too small", refused("where.min_params=100000"), "matches no layer"),
    Row(
        "norm that the method does not know",
        refused("method=random", "norm=full"),
        r"RandomPruning cannot approximate in the norm Full",
    ),
    Row(
        "norm that the allocation does not know",
        refused("method=svd_global", "norm=full"),
        "GlobalRank cannot approximate in the norm Full",
    ),
    Row(
        "norm that one of two methods does not know",
        refused("method=magnitude,alps", "norm=full", "values=float16"),
        "method=magnitude .*MagnitudePruning cannot approximate",
    ),
    Row(
        "in sequence with the loss",
        refused("method=fwsvd", "norm.mode=sequential"),
        "mode='sequential' stops each pass at its block",
    ),
    Row("damping below 0", refused("method=wanda", "norm.damping=-1"), "damping=-1"),
    Row("moment of none", refused("method=wanda", "norm.moment=third"), "moment='third'"),
    Row("no examples at once", refused("method=wanda", "norm.batch_size=0"), "batch_size=0"),
    Row(
        "ranks out of reach",
        refused("method=svd_energy", "method.compression_ratio=1000"),
        "bytes of the model / 1000 .* what is never compressed",
    ),
    Row(
        "nothing kept of all layers",
        refused("method=magnitude_global", "method.sparsity=1.0"),
        "sparsity=1.0",
    ),
    Row(
        "a budget that enlarges",
        refused("method=mix", "method.budget.ratio=0.5"),
        "ratio=0.5 must be at least 1",
    ),
    *(
        Row(
            f"a budget of {of} that the rest alone takes, of {name}",
            refused(
                f"method={name}",
                "method.budget.ratio=1000",
                "method.budget.of=model",
                f"method.budget.resource={of}",
            ),
            f"{of} of the model / 1000 is .* what is never compressed .* a ratio of",
        )
        for name in ("mix", "rank_search")
        for of in ("bytes", "params")
    ),
    Row(
        "a budget of all that there is",
        refused("method=mix", "method.budget.ratio=1"),
        "allows the model as it is, so there is nothing to compress",
    ),
    Row(
        "two budgets",
        refused("method=mix", "method.budget.limit=1000"),
        "Budget needs exactly one of ratio, limit and bits_per_weight",
    ),
    Row(
        "no candidates",
        refused(
            "method=mix",
            *(
                f"method.candidates.{name}=null"
                for name in ("entropy_coded", "quantized", "pruned_quantized", "sparse", "low_rank")
            ),
        ),
        "candidate",
    ),
]

RECOVERIES = [
    Row("statistics of none", refused("recovery=batchnorm"), "this model has no BatchNorm"),
    Row(
        "more batches than there are",
        refused("task=digits_cnn", "recovery=batchnorm", "recovery.batches=100"),
        "need 6400 examples, and the train split has 1257",
    ),
    Row(
        "more examples to correct by",
        refused("recovery=bias_correction", "recovery.examples=257"),
        "examples=257 are more than the 256 of the calibration split",
    ),
    Row(
        "more examples to tune on",
        refused("recovery=tune", "recovery.examples=300"),
        "examples=300 are more than the 256 of the calibration split",
    ),
    Row(
        "tuning on one batch",
        refused("recovery=tune", "recovery.batch_size=256"),
        "leaves none to learn from",
    ),
    Row(
        "examples of the second step",
        refused("recovery=corrected_tune", "recovery.steps.1.examples=500"),
        "examples=500 are more than the 256",
    ),
    Row(
        "no steps", refused("recovery=corrected_tune", "recovery.steps=[]"), "at least one recovery"
    ),
    Row(
        "no epochs",
        refused("recovery=finetune", "recovery.epochs=-1"),
        "epochs=-1 must be at least",
    ),
    Row(
        "rate NaN", refused("recovery=finetune", "recovery.learning_rate=nan"), "learning_rate=nan"
    ),
    Row("unknown split", refused("recovery=tune", "recovery.source=test"), "source='test' must be"),
    Row(
        "gains of a text",
        refused("recovery=bias_correction", "recovery.gains=some"),
        "gains='some'",
    ),
]

MEASURES = [
    Row("batch of none", refused("measure.batch_size=0"), "batch_size=0 must be at least 1"),
    Row("batch with a fraction", refused("measure.batch_size=1.5"), "batch_size=1.5 must be"),
    Row("batch is true", refused("measure.batch_size=true"), "batch_size=True must be"),
    Row("batches in no list", refused("measure.latency_batch_sizes=8"), "=8 must be a list"),
    Row("batch twice", refused("measure.latency_batch_sizes=[1,1]"), "has one size twice"),
    Row("no time", refused("measure.latency_seconds=0"), "latency_seconds=0 must be above 0"),
    Row("endless", refused("measure.latency_seconds=inf"), "latency_seconds=inf must be"),
    Row("no timing threads", refused("measure.threads=0"), "threads=0 must be at least 1"),
    Row("unknown accuracy", refused("measure.optimize=fast"), "accuracy='fast' does not exist"),
    Row("harness in no list", refused("measure.harness_tasks=arc"), "='arc' must be a list"),
    Row(
        "harness without its extra" if NO_HARNESS else "harness without a language model",
        refused("measure.harness_tasks=[arc_easy]"),
        "which is not installed: pip install" if NO_HARNESS else "has no language model",
    ),
    Row(
        "a batch that no memory holds",
        refused("measure.latency_batch_sizes=[1,10000000000]"),
        r"sizes=10000000000: .* GB are free on cpu; latency_batch_sizes=\d+ would fit",
    ),
]

TASKS = [
    Row(
        "all images are validation",
        refused("task.validation_size=1437"),
        "do not fit the 1437 .* so validation_size is at most 1436",
    ),
    Row(
        "more calibration than is left",
        refused("task.calibration_size=1300"),
        "with that validation_size, calibration_size is at most 1257",
    ),
    Row("half an image", refused("task.validation_size=2.5"), "validation_size=2.5 must be"),
    Row("all images are tests", refused("task.source.test_size=1797"), "must lie in 1..1796"),
    Row("calibration drawn by none", refused("task.calibration_seed=-1"), "calibration_seed=-1"),
    Row("split drawn by a text", refused("task.split_seed=x"), "split_seed='x' must be"),
    Row("no deviation", refused("task.std=[0]"), "std=0 must be positive"),
    Row("deviation NaN", refused("task.std=[nan]"), "task.std.0=nan must be a finite number"),
    Row(
        "means of three channels", refused("task.mean=[0.1,0.2,0.3]"), "one for each of 1 channels"
    ),
    Row("builder without a colon", refused("task.builder=mlp"), "give package.module:function"),
    Row("argument too many", refused("+task.arguments.depth=3"), "does not take arguments="),
    Row(
        "network of other classes",
        refused("task.arguments.widths=[64,10,7]"),
        "not logits of shape .1, 10.: the data have 10 classes",
    ),
    Row(
        "network of other images",
        refused("task.arguments.widths=[65,10]"),
        "does not take images of shape",
    ),
    Row("no training", refused("task.weights.recipe.epochs=0"), "epochs=0 must be at least 1"),
    Row("task that is none", refused("task._target_=lowrank.tasks.HubText"), "HubText"),
    Row("name that is empty", refused("task.name=''"), "name='' must be a text"),
]

ROWS = OPTIONS + NAMES + WORDS + WITHOUT_EFFECT + SHAPES + RECOVERIES + MEASURES + TASKS

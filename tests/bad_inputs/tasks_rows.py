"""Bad tasks, data of tasks, and measures of them."""

from dataclasses import dataclass, replace

import mirrors
import pytest
import torch
from row import Row, make
from torch import nn

from lowrank.metrics.metric import Metric
from lowrank.point import MeasureSettings, evaluate, measure
from lowrank.recovery import BatchNormReestimation, BiasCorrection, FineTune, InOrder, Tune
from lowrank.tasks import (
    CausalLM,
    Digits,
    HubImages,
    HubText,
    ImageClassification,
    Images,
    Inverted,
    Noisy,
    Packing,
    Permuted,
    Published,
    Rotated,
    TextClassification,
    TokenSplit,
    Trained,
    TrainedOn,
    Training,
)
from lowrank.tasks.builders import import_builder
from lowrank.tasks.networks.cifar_resnet import CifarResNet
from lowrank.tasks.networks.convolutional import lenet5, small_cnn
from lowrank.tasks.networks.multilayer import mlp
from lowrank.tasks.pretrained import Pretrained
from lowrank.tasks.sentences import SentenceSplit

DIGITS = ImageClassification(
    None, "mlp", Digits(), "lowrank.tasks.networks.multilayer:mlp", None, {"widths": [64, 8, 10]}
)
TEXTS = {"test": HubText("me/words", "test"), "train": HubText("me/words", "train")}
STORIES = CausalLM(None, "tiny", "me/tiny", packing=Packing(8), **TEXTS)
VERDICTS = TextClassification(None, "tiny", "me/tiny", classes=2, **TEXTS)
PIXELS, LABELS = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
TRAINED = Trained(Training(1, 0.1))
SETTINGS = MeasureSettings(latency_batch_sizes=())


def changed(task, **fields):
    return lambda _: replace(task, **fields)


def on(task, act, **fields):
    """Do something with a changed task."""
    return lambda _: act(replace(task, **fields))


def fail(why):
    raise KeyError(why)


def net(error):
    """A network of an error, which knows what images it does not like."""

    class Net(nn.Module):
        def forward(self, images):
            raise error("not these")

    return Net


AssertionErrorNet, KeyErrorNet, TypeErrorNet = map(net, (AssertionError, KeyError, TypeError))


def broken_module(folder):
    """Import a builder from a module that ends in an error of its own."""
    (folder / "broken_builder.py").write_text("1 / 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import_builder("broken_builder:f")


def mirrored(act, **columns):
    """With a mirror that has a dataset me/words of these columns, train and test, and no model."""

    def run(folder):
        import datasets

        place = folder / "hub" / "datasets" / "me" / "words"
        place.mkdir(parents=True)
        (folder / "hub" / "models").mkdir()
        for split in ("train", "test") if columns else ():
            data = datasets.Dataset.from_dict(columns)
            data.to_parquet(str(place / f"{split}.parquet"))
        with pytest.MonkeyPatch.context() as patch:
            mirrors.use(folder / "hub", patch)
            patch.setenv("LOWRANK_CACHE", str(folder / "cache"))
            act(folder)

    return run


def cached(where, act):
    """With a cache at such a place; "file" is one, in an empty folder."""

    def run(folder):
        (folder / "file").write_text("")
        is_there = where.startswith("file")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOWRANK_CACHE", str(folder / where) if is_there else where)
            act(folder)

    return run


def unmirrored(act):
    """Where no mirror is set."""

    def run(_):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("LOWRANK_HUB", raising=False)
            act()

    return run


def forged(name, content, act):
    """With a mirror whose dataset me/words is one file of that content."""

    def run(folder):
        place = folder / "hub" / "datasets" / "me" / "words"
        place.mkdir(parents=True)
        (place / name).write_bytes(content)
        with pytest.MonkeyPatch.context() as patch:
            mirrors.use(folder / "hub", patch)
            act(folder)

    return run


def rows(split="train", **fields):
    return lambda _: HubText("me/words", split, **fields).rows()


def labels(column="label"):
    return lambda _: HubText("me/words", "train").labels(column)


def images(part="train", **fields):
    return lambda _: HubImages("me/words", **fields).read(part)


class Lost(nn.Module):
    """Gives NaN."""

    def forward(self, x):
        return x.flatten(1)[:, :10] * torch.nan


def write_model(config=None):
    """A folder that is to be a model."""

    def act(folder):
        model = folder / "model"
        model.mkdir()
        if config is not None:
            (model / "config.json").write_text(config)
        return model

    return act


def pretrained(config=None, act=lambda task: task.network()):
    return lambda folder: act(replace(STORIES, pretrained=str(write_model(config)(folder))))


LLAMA = (
    '{"model_type": "llama", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, '
    '"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 4}'
)

IMAGES = [
    Row("images of no source", changed(DIGITS, source="digits"), "must be an ImageSource"),
    Row("task of no name", changed(DIGITS, name=""), "name='' must be a text"),
    Row("name is a number", changed(DIGITS, name=3), "name=3 must be a text"),
    Row("architecture of none", changed(DIGITS, architecture=None), "architecture=None must be"),
    Row("builder is no text", changed(DIGITS, builder=mlp), "builder=.* must be a text"),
    Row("arguments in a list", changed(DIGITS, arguments=[1]), "must be a mapping of names"),
    Row("weights are a path", changed(DIGITS, weights="a.pt"), "must be None or Weights"),
    Row("mean in no list", changed(DIGITS, mean=0.5), "mean=0.5 must be a list of numbers"),
    Row("no means", changed(DIGITS, mean=[]), r"mean=\[\] must be a list of numbers"),
    Row("mean NaN", changed(DIGITS, mean=[float("nan")]), "mean=nan must be finite"),
    Row("deviation NaN", changed(DIGITS, std=(float("nan"),)), "std=nan must be positive"),
    Row("deviation below 0", changed(DIGITS, std=(-1.0,)), "std=-1.0 must be positive"),
    Row("deviation is a text", changed(DIGITS, std="1"), "std='1' must be a list"),
    Row("no validation", changed(DIGITS, validation_size=0), "validation_size=0 must be at least"),
    Row("validation by share", changed(DIGITS, validation_size=0.1), "validation_size=0.1 must"),
    Row("calibration is true", changed(DIGITS, calibration_size=True), "calibration_size=True"),
    Row("seed of a share", changed(DIGITS, seed=0.5), "seed=0.5 must be"),
    Row("seed too large", changed(DIGITS, split_seed=2**63), "split_seed=.* must be below"),
    Row("calibration drawn by a text", changed(DIGITS, calibration_seed="a"), "='a' must be"),
    Row("an unknown split", on(DIGITS, lambda t: t.split("valid")), "there is no split 'valid'"),
    Row("a split of another case", on(DIGITS, lambda t: t.split("Test")), "no split 'Test'"),
    Row("a batch of none", on(DIGITS, lambda t: t.split("test").batches(0)), "batch_size=0"),
    Row("half a batch", on(DIGITS, lambda t: t.split("test").batches(1.5)), "batch_size=1.5"),
    Row("a batch of true", on(DIGITS, lambda t: t.split("test").batches(True)), "batch_size=True"),
    Row(
        "too many to divide", on(DIGITS, lambda t: t.check(), validation_size=2000), "at most 1436"
    ),
    Row("tuple for a network", on(DIGITS, lambda t: t.network(), builder="builtins:tuple"), "arg"),
    Row(
        "no module",
        on(DIGITS, lambda t: t.network(), builder="collections:OrderedDict"),
        "does not take",
    ),
    Row(
        "network of other outputs",
        on(DIGITS, lambda t: t.check(), builder="torch.nn:Flatten", arguments={}),
        r"gives \(1, 64\) for one example, not logits of shape \(1, 10\)",
    ),
    Row("builder of no module", lambda _: import_builder("no_such:f"), "No module named 'no_such'"),
    Row("builder of no name", lambda _: import_builder("torch:no_such"), "no_such"),
    Row("builder of nothing", lambda _: import_builder(""), "there is no colon in it"),
    Row("builder whose module fails", broken_module, "cannot be imported .ZeroDivisionError: divi"),
    Row(
        "builder that fails",
        on(DIGITS, lambda t: t.network(), builder=f"{__name__}:fail", arguments={"why": "no"}),
        "builder tasks_rows:fail of task 'digits' fails with arguments=.*: KeyError: 'no'",
    ),
    Row(
        "builder that refuses",
        on(DIGITS, lambda t: t.check(), arguments={"widths": [64, 0, 10]}),
        "of task 'digits' fails with arguments=.*widths=0 must be at least 1",
    ),
    *(
        Row(
            f"network that raises {error.__name__}",
            on(
                DIGITS, lambda t: t.check(), builder=f"{__name__}:{error.__name__}Net", arguments={}
            ),
            f"network of .*Net, of task 'digits', does not take images .*{error.__name__}",
        )
        for error in (AssertionError, KeyError, TypeError)
    ),
    *(
        Row(f"cache {what}", cached(path, on(DIGITS, lambda t: t.check(), weights=TRAINED)), says)
        for what, path, says in (
            ("that is a file", "file", "the cache folder .*file/models cannot be written"),
            ("in a file", "file/below", "the cache folder .*below/models cannot be written"),
            ("that no machine makes", "/proc/lowrank", "the cache folder /proc/lowrank/models ca"),
            ("of nobody", "~nobody-at-all/x", "LOWRANK_CACHE=~nobody-at-all/x names no folder"),
        )
    ),
    Row("part of no images", lambda _: Digits().read("valid"), "there is no part 'valid'"),
    Row("validation of no source", images("validation"), "there is no part 'validation'"),
    Row("pixels of floats", make(Images, PIXELS.float(), LABELS), "must be uint8"),
    Row("pixels without channels", make(Images, PIXELS[:, 0], LABELS), "channels, height, width"),
    Row("no images", make(Images, PIXELS[:0], LABELS[:0]), r"each at least 1, .*\(0, 1, 2, 2\)"),
    Row("images of 0 pixels", make(Images, PIXELS[..., :0], LABELS), r"\(4, 1, 2, 0\)"),
    Row("a label too few", make(Images, PIXELS, LABELS[:3]), r"int64 of shape \(4,\)"),
    Row("labels of floats", make(Images, PIXELS, LABELS.float()), "labels must be int64"),
    Row("hidden labels", make(Images, PIXELS, LABELS - 1), "labels lie in -1..0"),
    Row("a class too many", make(Images, PIXELS, LABELS, 255, 1), "there are 1 classes"),
    Row("white is black", make(Images, PIXELS, LABELS, white=0), "white=0 must be at least 1"),
    Row("tests of half an image", make(Digits, 0.5), "test_size=0.5 must be"),
    Row("size of one side", make(HubImages, "a/b", size=[8]), r"must be \[height, width\]"),
    Row("size of fractions", make(HubImages, "a/b", size=(8, 8.5)), r"must be \[height, width\]"),
    Row("size of a text", make(HubImages, "a/b", size="88"), r"must be \[height, width\]"),
    Row("size of no pixels", make(HubImages, "a/b", size=(0, 8)), "an integer from 1"),
    Row("two channels", make(HubImages, "a/b", channels=2), "must be 1 .grey. or 3 .RGB."),
    Row("channels are true", make(HubImages, "a/b", channels=True), "channels=True must be 1"),
    Row("dataset of no name", make(HubImages, ""), "dataset='' must be a text"),
    Row("column is a number", make(HubImages, "a/b", label=1), "label=1 must be a text"),
    Row("train is the test", make(HubImages, "a/b", train="test"), "they must not overlap"),
    Row("split of none", make(HubImages, "a/b", test=None), "test=None must be a text"),
]

READING = [
    Row("images of texts", mirrored(images(), text=["a"]), "has 0 columns of type Image"),
    Row("an unknown split of data", mirrored(rows("dev"), text=["a"]), "split 'dev' of dataset"),
    Row("an unknown configuration", mirrored(rows(config="big"), text=["a"]), "'big'"),
    Row(
        "an unknown dataset", mirrored(lambda _: HubText("a/b", "x").rows(), text=["a"]), "no data"
    ),
    Row("an unknown column", mirrored(rows(column="body"), text=["a"]), "has no column 'body'"),
    Row("texts that are numbers", mirrored(rows(), text=[1, 2]), "must hold text, and has 1"),
    Row("a text that is missing", mirrored(rows(), text=["a", None]), "text, and has None"),
    Row("a slice of no rows", mirrored(rows("train[:0]"), text=["a"]), "corresponds to no data"),
    Row("a slice that is none", mirrored(rows("train[a:]"), text=["a"]), "train.a:"),
    Row("a dataset without files", mirrored(rows()), "cannot be loaded"),
    Row("a damaged file", forged("train.parquet", b"PAR1 and no more", rows()), "cannot be loaded"),
    Row("a script", forged("words.py", b"raise SystemExit", rows()), "cannot be loaded"),
    Row("labels that are texts", mirrored(labels(), label=["a"]), "class numbers, and has 'a'"),
    Row("labels with fractions", mirrored(labels(), label=[0.5]), "class numbers, and has 0.5"),
    Row("labels that are hidden", mirrored(labels(), label=[0, -1]), "may be hidden"),
    Row("labels that are missing", mirrored(labels(), label=[0, None]), "and has None"),
    Row("labels of another column", mirrored(labels("x"), label=[0]), "no column 'x'"),
    Row("column of no name", make(HubText, "a/b", "train", column=""), "column='' must be"),
    Row("all splits", make(HubText, "a/b", None), "split=None must be a text"),
    Row("revision is a number", make(HubText, "a/b", "train", revision=2), "revision=2 must be"),
    Row("weights of no name", make(Published, None), "repository=None must be a text"),
    Row("weights at a number", make(Published, "a/b", 3), "url=3 must be a text"),
    Row(
        "weights that the mirror lacks",
        mirrored(lambda _: Published("me/net").check()),
        "has no models/me/net",
    ),
    Row(
        "weights without their hash",
        unmirrored(lambda: Published("me/net", "https://example.org/net.pth").check()),
        "must end in -<first 8 or more digits",
    ),
    Row("trained on nothing", make(TrainedOn, None), "task=None must be a Task, such as"),
    Row("no images to change", make(Inverted, "digits"), "source='digits' must be an ImageSource"),
    Row("no angle", make(Rotated, Digits(), float("nan")), "degrees=nan must be finite"),
    Row("no noise", make(Noisy, Digits(), 0), "std=0 must be"),
    Row("noise of no seed", make(Noisy, Digits(), 0.1, -1), "noise_seed=-1 must be at least 0"),
    Row("permuted by a text", make(Permuted, Digits(), "a"), "permutation_seed='a' must be"),
    Row("trained by nothing", make(Trained, None), "recipe=None must be a Training"),
    Row("trained by a tuning", make(Trained, Tune()), "must be a Training"),
    Row("trained with a teacher", make(Trained, FineTune(1, 0.1, distill=1)), "must be a Training"),
]

LANGUAGE = [
    Row("test on the train text", changed(STORIES, test=TEXTS["train"]), "are the same"),
    Row("a text by its name", changed(STORIES, test="me/words"), "must be a HubText"),
    Row("packing by its length", changed(STORIES, packing=512), "packing=512 must be a Packing"),
    Row("model of no name", changed(STORIES, pretrained=""), "pretrained='' must be a text"),
    Row("weights in 8 bits", changed(STORIES, dtype="int8"), "dtype='int8' must be one of"),
    Row("dtype of torch", changed(STORIES, dtype=torch.float16), "dtype=torch.float16 must be"),
    Row("trust in a text", changed(STORIES, trust_remote_code="no"), "must be True or False"),
    Row("no calibration", changed(STORIES, calibration_size=0), "calibration_size=0 must be"),
    Row("half an input", changed(STORIES, validation_size=2.5), "validation_size=2.5 must be"),
    Row("an unknown part", on(STORIES, lambda t: t.split("dev")), "there is no split 'dev'"),
    Row("length of none", make(Packing, 0), "sequence_length=0 must be at least 2"),
    Row("length of a fraction", make(Packing, 8.5), "sequence_length=8.5 must be an integer"),
    Row("length is true", make(Packing, True), "sequence_length=True must be an integer"),
    Row("stride beyond the length", make(Packing, 8, stride=9), r"stride=9 must lie in 1\.\.8"),
    Row("stride of a fraction", make(Packing, 8, stride=0.5), "stride=0.5 must be an integer"),
    Row("beginning of nothing", make(Packing, 8, bos="all"), "bos='all' must be one of"),
    Row("strip of a text", make(Packing, 8, strip="yes"), "strip='yes' must be True or False"),
    Row("separator of none", make(Packing, 8, separator=None), "separator=None must be a text"),
    Row("separator of rows apart", make(Packing, 8, bos="row", separator=" "), "of no effect"),
    Row(
        "shuffled by none at once",
        lambda _: TokenSplit(LABELS[None], LABELS[None]).batches(-1, 3),
        "batch_size=-1 must be at least 1",
    ),
    Row("a model that is nowhere", mirrored(on(STORIES, lambda t: t.network())), "has no models/"),
    Row("a folder without a model", pretrained(), "no configuration of"),
    Row("a configuration of no kind", pretrained("{}"), "no configuration of"),
    Row("a torn configuration", pretrained('{"model_type": "lla'), "no configuration of"),
    Row("a kind that is unknown", pretrained('{"model_type": "mine"}'), "no configuration of"),
    Row("a model for images", pretrained('{"model_type": "vit"}'), "no model for AutoModelForCaus"),
    Row("more than its positions", pretrained(LLAMA), "sequence_length=8 is more than the 4 pos"),
    Row(
        "a folder without weights",
        pretrained(LLAMA, lambda t: t._pretrained.check_weights()),
        r"has no weights: no \*.safetensors or \*.bin is in",
    ),
    Row("a model of no revision", make(Pretrained, "a/b", "float32", ""), "revision='' must be"),
]

SENTENCES = [
    Row("classes in words", changed(VERDICTS, classes="two"), "classes='two' must be at least 2"),
    Row("one class", changed(VERDICTS, classes=1), "classes=1 must be at least 2"),
    Row("classes are true", changed(VERDICTS, classes=True), "classes=True must be at least 2"),
    Row("half a token", changed(VERDICTS, max_length=0.5), "max_length=0.5 must be at least 1"),
    Row("a penalty of nothing", changed(VERDICTS, penalty=0), "penalty=0 must be above 0"),
    Row("a penalty NaN", changed(VERDICTS, penalty=float("nan")), "penalty=nan must be above 0"),
    Row("normalised by a text", changed(VERDICTS, normalize="l2"), "normalize='l2' must be True"),
    Row("label of none", changed(VERDICTS, label=None), "label=None must be a text"),
    Row("sentences of one text", changed(VERDICTS, train=TEXTS["test"]), "are the same"),
    Row(
        "sentences by halves",
        lambda _: SentenceSplit(LABELS[None], LABELS[:1]).batches(0.5),
        "batch_size=0.5 must be at least 1",
    ),
]

NETWORKS = [
    Row("layers of one width", lambda _: mlp([8]), "at least inputs and outputs"),
    Row("layers of a number", lambda _: mlp(8), "widths=8 must be a list"),
    Row("a layer of none", lambda _: mlp([8, 0, 2]), "widths=0 must be at least 1"),
    Row("a layer of a half", lambda _: mlp([8, 2.5]), "widths=2.5 must be at least 1"),
    Row("depth that is none", lambda _: CifarResNet(21), r"depth=21 must be 6n \+ 2"),
    Row("depth with a fraction", lambda _: CifarResNet(20.0), "depth=20.0 must be an integer"),
    Row("network of no classes", lambda _: small_cnn(0), "classes=0 must be at least 1"),
    Row("LeNet of no classes", lambda _: lenet5("ten"), "classes='ten' must be at least 1"),
]


@dataclass(frozen=True)
class Telling(ImageClassification):
    """Says of its numbers what it is told to."""

    told: object = ()

    def judged_by(self):
        return self.told


def telling(*names, told=None):
    """Evaluate a task that says what these metrics are."""
    metrics = tuple(Metric(name, name, name) for name in names) if told is None else told
    task = Telling(None, "mlp", Digits(), "torch.nn:Flatten", None, told=metrics)
    return lambda _: evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), task)


MEASURES = [
    Row("a metric without meaning", telling("loss", "top5"), "measures macro_f1.* and does not"),
    Row("no loss", telling("top1"), r"judged_by\(\) lacks 'loss'"),
    Row("metrics that are names", telling(told=("top1",)), "must be a tuple of Metric"),
    Row("no metrics", telling(), "lacks 'loss'"),
    Row("one metric twice", telling("loss", "loss"), "has 'loss' more than once"),
    Row("a metric called as a cost", telling("loss", "bytes"), "'bytes' is what a model costs"),
    Row("a metric without a name", lambda _: Metric("", "x", "x"), "name='' of a metric must"),
    Row("outputs NaN", lambda _: evaluate(Lost(), DIGITS), "are NaN or infinite"),
    Row("quality of no split", lambda _: evaluate(Lost(), DIGITS, "dev"), "no split 'dev'"),
    Row("quality of no batch", lambda _: evaluate(Lost(), DIGITS, batch_size=0), "batch_size=0"),
    Row(
        "a reference of another batch",
        lambda _: evaluate(nn.Flatten(), DIGITS, reference=[(torch.zeros(3, 10),)]),
        "do not match the reference's",
    ),
    Row(
        "a harness for images",
        on(DIGITS, lambda t: t.tokenizer),
        "has no language model, and so no tokenizer",
    ),
    Row(
        "settings of a list of texts",
        make(MeasureSettings, latency_batch_sizes=["1"]),
        "latency_batch_sizes='1' must be",
    ),
    Row("harness of empty names", make(MeasureSettings, harness_tasks=[""]), "be names of tasks"),
    Row(
        "no room for one example",
        lambda _: with_little_memory(lambda: measure(DIGITS.model(), DIGITS, SETTINGS)),
        "not even one would fit",
    ),
]

RECOVERIES = [
    Row("epochs of a text", make(FineTune, "two", 0.1), "epochs='two' must be"),
    Row("rate of infinity", make(FineTune, 1, float("inf")), "learning_rate=inf must be"),
    Row(
        "momentum NaN", make(FineTune, 1, 0.1, optimizer="sgd", momentum=float("nan")), "momentum="
    ),
    Row("decay NaN", make(FineTune, 1, 0.1, weight_decay=float("nan")), "weight_decay=nan must be"),
    Row("optimizer of none", make(FineTune, 1, 0.1, optimizer=None), "optimizer=None must be one"),
    Row("tune of no parts", make(Tune, parts=[]), r"parts=\[\] must be a list of some of"),
    Row("tune of half an example", make(Tune, examples=2.5), "examples=2.5 must be at least 2"),
    Row("tune that holds out all", make(Tune, held_out=1), r"held_out=1 must lie in \(0, 1\)"),
    Row("correction of half", make(BiasCorrection, examples=0.5), "examples=0.5 must be at least"),
    Row("statistics of true", make(BatchNormReestimation, True), "batches=True must be at least 1"),
    Row("steps of one step", make(InOrder, Tune()), "must be a list of at least one recovery"),
    Row("steps of a text", make(InOrder, ["tune"]), "steps hold 'tune', and must be recoveries"),
]


def with_little_memory(act):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowrank.point.room.free_memory", lambda device: 1.0)
        act()


ROWS = IMAGES + READING + LANGUAGE + SENTENCES + NETWORKS + MEASURES + RECOVERIES

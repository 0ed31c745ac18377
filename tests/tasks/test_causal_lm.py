import math
import os
from dataclasses import replace
from pathlib import Path

import mirrors
import pytest
import text_mirror
import torch
import torch.nn.functional as F

import lowrank
from lowrank import MagnitudePruning, Quantization, Select
from lowrank.allocation import Problem, losses
from lowrank.allocation.analysis import analyse, dense_costs
from lowrank.allocation.losses import OutputDistance
from lowrank.calibration import IdentityNorms
from lowrank.model.batch import together
from lowrank.point import Generation, MeasureSettings, evaluate
from lowrank.tasks import CausalLM, HubText, Packing, causal_lm
from lowrank.tasks.class_metrics import IGNORED

CONF = Path(__file__).parents[2] / "conf"
TASK = CausalLM(
    name="words",
    architecture="tiny",
    pretrained="me/tiny",
    test=HubText("me/words", "validation"),
    train=HubText("me/words", "train"),
    packing=Packing(32),
    calibration_size=5,
    validation_size=4,
)
PACKINGS = [
    Packing(32),
    Packing(32, stride=10),
    Packing(32, stride=1, separator=" "),
    Packing(32, bos="row", strip=True),
    Packing(20, bos="row", stride=7),
    Packing(32, bos="text", separator="\n\n", stride=31),
    Packing(32, bos="sequence", separator="\n\n", strip=True),
    Packing(32, bos="sequence", stride=8),
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    text_mirror.save_llama(folder / "models" / "me" / "tiny", text_mirror.byte_tokenizer())
    text_mirror.save_rows(
        folder / "datasets" / "me" / "words",
        train={"text": text_mirror.rows(40, seed=1), "number": list(range(40))},
        validation={"text": text_mirror.rows(12, seed=2), "number": list(range(12))},
    )
    return folder


@pytest.fixture(autouse=True)
def mirror(hub, monkeypatch):
    mirrors.use(hub, monkeypatch)


def plain_text(packing: Packing) -> tuple[str, list[int]]:
    """The test text and its tokens, without the code of the task."""
    tokenizer, bos = TASK.tokenizer, TASK.tokenizer.bos_token_id
    rows = text_mirror.rows(12, seed=2)
    rows = [row.strip() if packing.strip else row for row in rows]
    if packing.bos == "row":
        ids = [token for row in rows for token in [bos, *tokenizer.encode(row)]]
        return "".join(rows), ids
    text = packing.separator.join(rows)
    return text, [bos] * (packing.bos == "text") + tokenizer.encode(text)


@torch.no_grad()
def plain_nats(packing: Packing) -> list[tuple[float, bool]]:
    """Negative log-likelihood of each token, and whether it is the likeliest, window by window."""
    model, (_, ids) = TASK.model(), plain_text(packing)
    own = packing.sequence_length - (packing.bos == "sequence")
    stride = packing.stride or own
    found, scored = [], 0
    for start in range(0, len(ids) - own + 1, stride):
        window = ids[start : start + own]
        if packing.bos == "sequence":
            window = [TASK.tokenizer.bos_token_id, *window]
        logits = model(torch.tensor([window])).logits[0].double()
        for position in range(1, len(window)):
            number = start + position - (packing.bos == "sequence")
            if number < scored:
                continue
            before, token = logits[position - 1], torch.tensor(window[position])
            nats = F.cross_entropy(before, token)
            found.append((float(nats), int(before.argmax()) == window[position]))
        scored = start + own
    return found


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_perplexity_is_that_of_a_plain_loop_over_the_text(packing):
    task = replace(TASK, packing=packing)
    measured = evaluate(task.model(), task, batch_size=7).metrics
    found, protocol = plain_nats(packing), task.protocol()
    mean = sum(nats for nats, _ in found) / len(found)
    assert measured["loss"] == pytest.approx(mean, rel=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert measured["token_accuracy"] == pytest.approx(sum(hit for _, hit in found) / len(found))
    assert protocol["predicted_tokens"] == len(found)
    text, ids = plain_text(packing)
    covered = ids[: protocol["tokens"]]
    assert len(ids) - len(covered) == protocol["left_out_tokens"] < (packing.stride or 32)
    # Byte-level tokens give back the text, so its part in the inputs can be counted.
    inside = TASK.tokenizer.decode(covered, skip_special_tokens=True)
    assert text.startswith(inside.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert protocol["words"] == pytest.approx(len(inside.split()), abs=12)
    nats_of_all = mean * len(covered)
    assert measured["word_perplexity"] == pytest.approx(
        math.exp(nats_of_all / protocol["words"]), rel=1e-4
    )
    bits = nats_of_all / math.log(2) / protocol["bytes"]
    assert measured["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("length", range(30, 60, 3))
def test_words_and_bytes_are_those_of_the_text_in_the_inputs(length):
    task = replace(TASK, packing=Packing(length, separator="\n"))
    text, ids = plain_text(task.packing)
    protocol = task.protocol()
    inside = TASK.tokenizer.decode(ids[: protocol["tokens"]])
    # A word or a letter may be cut in two.
    assert protocol["bytes"] == pytest.approx(len(inside.encode()), abs=3)
    assert len(inside.split()) - protocol["words"] in (0, 1)
    assert protocol["tokens"] + protocol["left_out_tokens"] == len(ids)
    assert protocol["tokens"] == length * protocol["test_inputs"]


def test_overlaps_count_each_token_once():
    for bos, unpredicted in (("none", 1), ("sequence", 0)):
        for stride in (1, 5, 16):
            task = replace(TASK, packing=Packing(32, stride=stride, bos=bos))
            protocol = task.protocol()
            assert protocol["predicted_tokens"] == protocol["tokens"] - unpredicted
            assert protocol["left_out_tokens"] < stride


def test_more_text_before_each_token_changes_what_is_predicted_from():
    """With stride 1 every token but the first 31 has 31 tokens before it."""
    packing = Packing(32, stride=1)
    split = replace(TASK, packing=packing).split("test")
    counted = (split.targets != IGNORED).sum(dim=1)
    assert counted[0] == 31 and bool((counted[1:] == 1).all())
    assert bool((split.targets[1:, -2] == split.inputs[1:, -1]).all())


def test_the_splits_share_nothing():
    splits = {name: TASK.split(name) for name in ("train", "calibration", "validation", "test")}
    assert [len(splits[n]) for n in ("calibration", "validation")] == [5, 4]
    ids = torch.tensor(TASK.tokenizer.encode("".join(text_mirror.rows(40, seed=1))))
    together = torch.cat([splits["train"].inputs, splits["validation"].inputs]).flatten()
    assert torch.equal(together, ids[: len(ids) // 32 * 32])
    assert torch.equal(splits["calibration"].inputs, splits["train"].inputs[:5])
    drawn = replace(TASK, calibration_seed=3).split("calibration").inputs
    assert len(drawn) == 5 and not torch.equal(drawn, splits["calibration"].inputs)
    assert {tuple(row.tolist()) for row in drawn} <= {
        tuple(row.tolist()) for row in splits["train"].inputs
    }
    # The train text never overlaps, even where the test text does.
    overlapping = replace(TASK, packing=Packing(32, stride=4))
    assert torch.equal(overlapping.split("train").inputs, splits["train"].inputs)
    assert int((splits["train"].targets == IGNORED).sum()) == len(splits["train"])
    with pytest.raises(ValueError, match="there is no split 'dev'"):
        TASK.split("dev")  # type: ignore[arg-type]


def test_batches_are_the_inputs_in_order_or_shuffled():
    split = TASK.split("train")
    whole = together(list(split.batches(3)))
    inputs, targets = whole.only, whole.targets
    assert torch.equal(inputs, split.inputs) and torch.equal(targets, split.targets)
    shuffled = torch.cat([batch.only for batch in split.batches(3, shuffle_seed=1)])
    assert not torch.equal(shuffled, inputs)
    assert sorted(shuffled.tolist()) == sorted(inputs.tolist())
    with pytest.raises(ValueError, match="batch_size=0"):
        split.batches(0)


def test_the_network_is_the_model_before_its_weights():
    model, network = TASK.model(), TASK.network()
    assert not model.training and not network.training
    network.load_state_dict(model.state_dict())
    batch = next(TASK.split("test").batches(2))
    with torch.no_grad():
        outputs = TASK.forward(model, batch)
        assert outputs.shape == (2, 32, 300)
        assert torch.equal(TASK.forward(network, batch), outputs)
        assert model(*TASK.example()).past_key_values is None
    assert model.lm_head.weight is model.model.embed_tokens.weight  # type: ignore[union-attr]
    assert network.lm_head.weight is network.model.embed_tokens.weight  # type: ignore[union-attr]
    half = replace(TASK, dtype="bfloat16")
    assert {p.dtype for p in half.model().parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.network().parameters()} == {torch.bfloat16}


def test_a_folder_will_do_for_a_name(hub, monkeypatch):
    local = replace(TASK, pretrained=str(hub / "models" / "me" / "tiny"))
    state, expected = local.model().state_dict(), TASK.model().state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert torch.equal(local.split("test").inputs, TASK.split("test").inputs)


def test_examples_repeat():
    (few,), (many,) = TASK.example(2), TASK.example(200)
    count = len(TASK.split("test"))
    assert many.shape == (200, 32) and torch.equal(many[count : count + 2], few)
    assert not next(TASK.split("test").batches(2)).is_padded


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing": Packing(64), "calibration_size": 500},
            "do not fit the [0-9]+ inputs of 64 tokens .* at most",
        ),
        ({"packing": Packing(65)}, "sequence_length=65 is more than the 64 positions"),
        (
            {"test": HubText("me/words", "validation[:1]")},
            "validation.* does not fill one",
        ),
        (
            {"train": HubText("me/words", "train[:1]")},
            "1 inputs of 32 tokens that HubText.*train.* cannot be divided",
        ),
        ({"test": HubText("me/none", "test")}, "no datasets/me/none; it has me/words"),
        ({"test": HubText("me/words", "test")}, "split 'test' .* cannot be loaded"),
        ({"test": HubText("me/words", "validation", column="body")}, "no column 'body'"),
        ({"test": HubText("me/words", "validation", column="number")}, "must hold text, and has 0"),
        ({"test": HubText("me/words", "validation[:0]")}, "corresponds to no data"),
        ({"pretrained": "me/none"}, "no models/me/none; it has me/tiny"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, message):
    task = replace(TASK, **changes)
    with pytest.raises(ValueError, match=message):
        task.example()
        task.split("train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration_size": 0}, "must be at least 1"),
        ({"validation_size": 0}, "must be at least 1"),
        ({"dtype": "int8"}, "dtype='int8' must be one of .'float32', 'float16', 'bfloat16'"),
        ({"test": TASK.train}, "test and train are the same"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TASK, **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1}, "sequence_length=1 must be at least 2"),
        ({"sequence_length": 2, "bos": "sequence"}, "sequence_length=2 must be at least 3"),
        ({"sequence_length": 8, "stride": 9}, r"stride=9 must lie in 1\.\.8"),
        ({"sequence_length": 8, "stride": 8, "bos": "sequence"}, r"stride=8 must lie in 1\.\.7"),
        ({"sequence_length": 8, "stride": 0}, "stride=0"),
        ({"sequence_length": 8, "bos": "always"}, "bos='always' must be one of row, text"),
        ({"sequence_length": 8, "bos": "row", "separator": "\n"}, "would be of no effect"),
    ],
)
def test_bad_packings(options, message):
    with pytest.raises(ValueError, match=message):
        Packing(**options)


def made(tmp_path, bos="<s>", vocabulary=300):
    tokenizer = text_mirror.byte_tokenizer(bos)
    text_mirror.save_llama(tmp_path / "model", tokenizer, vocabulary)
    return replace(TASK, pretrained=str(tmp_path / "model"))


@pytest.mark.parametrize("bos", ["row", "text", "sequence"])
def test_a_tokenizer_without_a_beginning(tmp_path, bos):
    task = made(tmp_path, bos=None)
    assert len(task.split("test")) > 0
    with pytest.raises(ValueError, match="has no token for a beginning: set bos to none"):
        replace(task, packing=Packing(32, bos=bos)).split("test")


def test_a_tokenizer_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="does not fit it: it makes token 2[0-9]+, and .* of 200"):
        made(tmp_path, vocabulary=200).example()


def test_a_model_without_a_tokenizer(tmp_path):
    task = made(tmp_path)
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    # The reasons of the library, of several lines, as one.
    with pytest.raises(ValueError, match=r"no tokenizer of .*model.*one of: \(1\) .*[^:]$"):
        task.example()


def test_a_model_that_is_not_causal(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not causal: its outputs depend on tokens that come"):
        replace(TASK, pretrained=str(tmp_path)).model()


def test_a_model_whose_weights_are_missing(tmp_path, capfd):
    from safetensors.torch import load_file, save_file

    task = made(tmp_path)
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    state.pop("model.layers.1.mlp.up_proj.weight")
    save_file(state, file, metadata={"format": "pt"})
    capfd.readouterr()
    with pytest.raises(ValueError, match="lacks 1 weights .* model.layers.1.mlp.up_proj.weight"):
        task.model()
    # The error says it all; a report of the library's own would come in its way.
    assert capfd.readouterr() == ("", "")


def test_a_length_beyond_the_positions_is_found_without_data(monkeypatch):
    monkeypatch.setattr(HubText, "rows", lambda self: pytest.fail("the text was read"))
    with pytest.raises(ValueError, match="sequence_length=65 is more than the 64 positions"):
        replace(TASK, packing=Packing(65)).network()


@pytest.mark.skipif("LOWRANK_HUB" not in os.environ, reason="needs the data mirror")
def test_the_reference_case(monkeypatch, tmp_path):
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    monkeypatch.setenv("LOWRANK_HUB", REAL_HUB)
    with initialize_config_dir(str(CONF), version_base=None):
        task = instantiate(compose(overrides=["+task=stories260k"]).task, _convert_="all")
    protocol = task.protocol()
    assert (len(task.whole_test()), protocol["tokens"]) == (762, 762 * 512)
    assert protocol["predicted_tokens"] == 635 * 511
    sizes = {"calibration": 64, "validation": 127, "test": 635}
    assert {name: len(task.split(name)) for name in sizes} == sizes
    texts = replace(task.test, split="validation[:100]")
    few = replace(task, test=texts, validation_from="train")
    assert evaluate(few.model(), few, batch_size=8).metrics["perplexity"] < 5


REAL_HUB = os.environ.get("LOWRANK_HUB", "")


def test_a_record_has_the_continuations_of_prompts_if_asked_for():
    how = MeasureSettings(latency_batch_sizes=(), generation=Generation(3, 5, 20))
    method = MagnitudePruning(0.4)
    found = lowrank.measure_point(TASK, method, measure=how).outcomes.continuations
    assert found is not None and found.written == 20 and len(set(found.prompts)) == 3
    models = TASK.model(), lowrank.compress(TASK.model(), method).model
    inputs = TASK.split("test").inputs
    for row, place in enumerate([0, len(inputs) // 3, 2 * len(inputs) // 3]):
        texts = []
        for model in models:
            text = inputs[place, :5]
            for _ in range(20):
                with torch.no_grad():
                    text = torch.cat([text, model(text[None]).logits[0, -1:].argmax(dim=1)])
            texts.append(text[5:])
        equal = (texts[0] == texts[1]).tolist()
        assert found.same[row] == sum(equal)
        assert found.prefix[row] == (equal.index(False) if False in equal else 20)
    assert 0 < found.same.sum() < 60
    plain = lowrank.measure_point(TASK, method, measure=MeasureSettings(latency_batch_sizes=()))
    assert plain.outcomes.continuations is None


@pytest.mark.parametrize(
    ("generation", "says"),
    [
        (Generation(prompts=999), "prompts=999 is more than the"),
        (Generation(3, 20, 20), "given=20 and written=20 are 40 tokens, more than the 32"),
    ],
)
def test_continuations_that_do_not_fit_are_refused_before_the_work(generation, says, monkeypatch):
    monkeypatch.setattr(CausalLM, "model", None)
    with pytest.raises(ValueError, match=says):
        lowrank.measure_point(
            TASK, MagnitudePruning(0.4), measure=MeasureSettings(generation=generation)
        )


@pytest.mark.parametrize("at_once, expected", [(32, 1), (300 * 32 * 3, 3), (2**30, 8)])
def test_inputs_of_a_large_vocabulary_are_evaluated_a_few_at_once(monkeypatch, at_once, expected):
    vocabulary = TASK.network().config.vocab_size
    monkeypatch.setattr(causal_lm, "LOGITS_AT_ONCE", at_once * vocabulary // 300)
    assert TASK.batch_sizes.quality == expected
    assert MeasureSettings().of(TASK).batch_size == expected
    assert MeasureSettings(batch_size=5).of(TASK).batch_size == 5


@pytest.mark.parametrize("kept, at_once", [(0, 1), (40000, 2**28), (2**30, 2**28)])
def test_distances_do_not_depend_on_how_many_outputs_are_held(monkeypatch, kept, at_once):
    model = TASK.model()
    sites, _ = Select("*.layers.*").split(model)
    problem = Problem(model, sites, IdentityNorms(), TASK)
    costs = dense_costs(problem, "bytes")
    option = analyse(problem, [Quantization(bits=2)], costs).options[sites[0].name][1]
    wanted = OutputDistance(problem, None, 2).of({sites[0].name: option})
    monkeypatch.setattr(losses, "KEPT_BYTES", kept)
    monkeypatch.setattr(losses, "AT_ONCE", at_once)
    distance = OutputDistance(problem, None, 2)
    each = 32 * model.config.vocab_size * 4
    assert len(distance.kept) == min(kept // (2 * each), len(distance.pieces))
    assert len(distance.pieces) == (5 if at_once == 1 else 3)
    assert distance.of({sites[0].name: option}) == pytest.approx(wanted, rel=1e-5)

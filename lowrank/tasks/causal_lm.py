"""Language modelling: any causal language model on any text, judged by perplexity."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.tasks.agreement import agreement_metrics, counted_agreement, counted_divergence
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.continuations import beginnings
from lowrank.tasks.groupings import Grouping, token_groupings
from lowrank.tasks.pretrained_task import PretrainedTask
from lowrank.tasks.splits import (
    Division,
    TestDivision,
    ValidationFrom,
    check_division,
    check_seed,
    check_text,
    divided,
    divided_test,
    named,
)
from lowrank.tasks.task import BatchSizes, SplitName, check_split, loss_metric
from lowrank.tasks.text_sources import HubText, check_texts
from lowrank.tasks.token_sequences import (
    Packing,
    Tokens,
    TokenSplit,
    check_causal,
    check_validation,
    sequence_outcomes,
    token_loss,
)

if TYPE_CHECKING:
    from torchmetrics import MetricCollection
    from transformers import PreTrainedTokenizerBase

# 256 MB in float32, of a dense and of a compressed model.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class CausalLM(PretrainedTask):
    """A causal language model that predicts the next token of a text.

    Inputs are token ids (batch, sequence_length), outputs logits (batch, sequence_length,
    vocabulary).

    Splits: `test` is made of the text `test`. The text `train` is cut into inputs that do not
    overlap. The last `validation_size` of them are `validation`, the others `train`; the first
    `calibration_size` of `train` are `calibration`. Published weights may have been trained on this
    `validation`: with ``validation_from="test"`` it is drawn from the inputs of the text `test`,
    which the split `test` then leaves out.

    Perplexities per token can be compared only between models with the same tokenizer, and all of
    them only at the same protocol. Those per word or per byte do not depend on the tokenizer.

    Args:
        name: the name of the task in records; that of the test data if None.
        architecture: the model's name in records.
        pretrained: the model's name in the mirror or on the hub, or its folder. Its own tokenizer
            is used.
        test, train: the two texts, which must differ.
        packing: the rule that cuts texts into inputs.
        dtype: the dtype of the weights, float32, float16 or bfloat16, whatever the file has.
        revision: a commit of the model on the hub.
        trust_remote_code: whether code that comes with the model may run.
        calibration_size: 128, or all inputs of `train` where it has fewer, if not given.
        validation_size: a tenth of the inputs that it is taken from, at most 32, if not given.
        validation_from: ``train`` or ``test``, the text of which `validation` is a part.
        split_seed: draws `validation` from the inputs of the text `test`.
        calibration_seed: draws the `calibration` inputs from those of `train`; by default the first
            ones are taken.
        seed: the seed of the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, a missing model or text, a text
            that is too short, a tokenizer that does not fit the model, more tokens in an input than
            the model has positions, or a model that is not causal.
    """

    name: str | None  # never None after __post_init__
    architecture: str
    pretrained: str
    test: HubText
    train: HubText
    packing: Packing
    calibration_size: int | None = None
    validation_size: int | None = None
    validation_from: ValidationFrom = "train"
    split_seed: int = 0
    calibration_seed: int | None = None
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_texts(self.test, self.train)
        object.__setattr__(self, "name", named(self.name, self.test.name))
        check_text("architecture", self.architecture)
        if not isinstance(self.packing, Packing):
            raise ValueError(f"packing={self.packing!r} must be a Packing")
        check_division(
            self.validation_size,
            self.calibration_size,
            self.calibration_seed,
            self.split_seed,
            self.validation_from,
        )
        check_validation(self.packing, self.validation_from, self.split_seed)
        check_seed("seed", self.seed)
        _ = self._pretrained  # Made here to check its options.
        need("a language model's measures", "torchmetrics")

    @property
    def batch_sizes(self) -> BatchSizes:  # type: ignore[override]
        """Eight inputs in an evaluation, or as many as have `LOGITS_AT_ONCE` logits."""
        logits = self.packing.sequence_length * self._pretrained.vocabulary
        return BatchSizes(quality=max(1, min(8, LOGITS_AT_ONCE // logits)), latency=(1,))

    def network(self) -> nn.Module:
        from transformers import AutoModelForCausalLM

        self._check_length()
        return self._pretrained.network(AutoModelForCausalLM)

    def model(self) -> nn.Module:
        from transformers import AutoModelForCausalLM

        model = self._pretrained.model(AutoModelForCausalLM)
        model.to(self.device)  # type: ignore[arg-type]
        check_causal(lambda ids: self.forward(model, Batch((ids,))), self.pretrained, self.device)
        return model

    def split(self, name: SplitName) -> TokenSplit:
        check_split(name)
        if name == "test" or (name == "validation" and self.validation_from == "test"):
            return self._test_inputs.part(getattr(self._test_division, name))
        return self._train_inputs.part(self._division.rows(name))

    def whole_test(self) -> TokenSplit | None:
        return None if self.validation_from == "train" else self._test_inputs

    def forward(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (batch, length, vocabulary)."""
        return batch.run(model).logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean negative log-likelihood of the counted predictions, in nats per token."""
        return token_loss(outputs, targets)

    def predictions(self, batch: Batch) -> Tensor:
        return (batch.targets != IGNORED).sum(dim=1)

    def outcomes(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Of each input the means over its counted predictions: "loss", "token_accuracy", and what
        "perplexity", "word_perplexity" and "bits_per_byte" are made of."""
        text = self._covered
        return sequence_outcomes(outputs, batch, text.per_word, text.per_byte, self._groupings)

    def groupings(self) -> tuple[Grouping, ...]:
        """By the rank of the token and by its position; see `token_groupings`."""
        return self._groupings

    def prompts(self, count: int, given: int, written: int) -> Tensor:
        return beginnings(self.split("test").inputs, count, given, written)

    def agreement(self, outputs: Tensor, dense: Tensor, batch: Batch) -> dict[str, Tensor]:
        """ "flipped" and "kl" of the counted predictions."""
        return counted_agreement(outputs, dense, batch.targets != IGNORED)

    def distance(self, outputs: Tensor, dense: Tensor, batch: Batch) -> Tensor:
        """KL(dense ‖ model), the mean over the counted predictions."""
        return counted_divergence(outputs, dense, batch.targets != IGNORED)

    def judged_by(self) -> tuple[Metric, ...]:
        from lowrank.tasks.text_metrics import LIKELIHOOD

        return (*LIKELIHOOD, loss_metric("token"), *agreement_metrics("token"))

    def metrics(self) -> MetricCollection:
        """perplexity, word_perplexity, bits_per_byte and token_accuracy; see `Likelihood`.

        The metrics in `undefined` are left out. Tokens per word and per byte are counted on the
        test text and used on every split.
        """
        from torchmetrics import MetricCollection

        from lowrank.tasks.text_metrics import Likelihood

        likelihood = Likelihood(self._covered.per_word, self._covered.per_byte)
        return MetricCollection({"likelihood": likelihood}).to(self.device)

    def undefined(self) -> dict[str, str]:
        text, found = self._covered, {}
        if text.per_word is None:
            found["word_perplexity"] = (
                f"the text has no words that white space parts: {text.words} in "
                f"{text.characters} characters"
            )
        if text.per_byte is None:
            found["bits_per_byte"] = "the text has no bytes"
        return found

    def protocol(self) -> dict[str, Any]:
        """The protocol of perplexity.

        "tokens", "words" and "bytes" count the text in the test inputs, overlaps once, and
        `validation` too where it is a part of them.
        "predicted_tokens" counts the predictions in the mean, "left_out_tokens" the tokens at the
        end of the text that do not fill an input.
        """
        return {
            **super().protocol(),
            **asdict(self.packing),
            "stride": self.packing.step,
            "test_inputs": len(self.split("test")),
            "calibration_inputs": len(self._division.calibration),
            "tokens": len(self._covered.ids),
            "predicted_tokens": int((self.split("test").targets != IGNORED).sum()),
            "left_out_tokens": len(self._test_tokens.ids) - len(self._covered.ids),
            "words": self._covered.words,
            "bytes": self._covered.size,
        }

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer."""
        return self._pretrained.tokenizer

    @cached_property
    def _test_tokens(self) -> Tokens:
        return self._tokenize(self.test)

    @cached_property
    def _covered(self) -> Tokens:
        return self.packing.covered(self._test_tokens, self.tokenizer)

    @cached_property
    def _test_inputs(self) -> TokenSplit:
        return self._cut(self.test, self._test_tokens, self.packing.step)

    @cached_property
    def _train_inputs(self) -> TokenSplit:
        return self._cut(self.train, self._tokenize(self.train), self.packing.own)

    @cached_property
    def _groupings(self) -> tuple[Grouping, ...]:
        return token_groupings(self.split("train").inputs, self.packing.sequence_length)

    @cached_property
    def _test_division(self) -> TestDivision:
        found, size, seed = len(self._test_inputs), self.validation_size, self.split_seed
        return divided_test(found, size, 32, f"inputs of {self.test}", self.validation_from, seed)

    @cached_property
    def _division(self) -> Division:
        return divided(
            len(self._train_inputs),
            (self.validation_size if self.validation_from == "train" else 0, self.calibration_size),
            most=(32, 128),
            of=f"inputs of {self.packing.sequence_length} tokens that {self.train} fills",
            calibration_seed=self.calibration_seed,
        )

    def _tokenize(self, text: HubText) -> Tokens:
        self._check_length()
        tokens = self.packing.tokenize(text.rows(), self.tokenizer)
        self._pretrained.check_ids(tokens.ids)
        return tokens

    def _check_length(self) -> None:
        self._pretrained.check_length("sequence_length", self.packing.sequence_length)

    def _cut(self, text: HubText, tokens: Tokens, step: int) -> TokenSplit:
        try:
            found = self.packing.cut(tokens.ids, step, self.tokenizer)
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from error
        return TokenSplit(found.inputs.to(self.device), found.targets.to(self.device))

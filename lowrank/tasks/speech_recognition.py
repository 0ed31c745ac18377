"""Speech recognition: strings of spoken words, any network that scores their frames (CTC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.files.extras import need
from lowrank.metrics.metric import Metric
from lowrank.model.batch import Batch
from lowrank.model.forward import Example
from lowrank.numerics.checks import check_integer, check_is
from lowrank.tasks.agreement import agreement_metrics
from lowrank.tasks.builders import bound
from lowrank.tasks.class_metrics import IGNORED
from lowrank.tasks.ctc import FrameScores, ScoredFrames, collapsed
from lowrank.tasks.joined_clips import HubSpokenWords, SpokenClips, strings_of
from lowrank.tasks.own_network import OwnNetwork
from lowrank.tasks.splits import (
    Division,
    calibration_rows,
    check_division,
    counted,
    divided,
    named,
)
from lowrank.tasks.task import BatchSizes, Split, SplitName, check_split, loss_metric
from lowrank.tasks.text_pairs import PairTargets
from lowrank.tasks.text_scores import RecognitionScores, TextScores
from lowrank.tasks.weights import Weights
from lowrank.tasks.written import written_collection

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

BLANK = 0


@dataclass(frozen=True)
class StringSplit(Split):
    """Strings of spoken words; a batch is padded to its longest.

    Args:
        clips: those that strings are made of.
        strings: the rows of the clips in each.
        words: by the numbers of labels.
        make: from a wave (1, samples) to features (1, frames, bands).
        device: of the batches.
    """

    clips: SpokenClips
    strings: list[Tensor]
    words: tuple[str, ...]
    make: Any
    device: str

    def __len__(self) -> int:
        return len(self.strings)

    def batch(self, rows: Tensor) -> Batch:
        strings = [self.strings[row] for row in rows.tolist()]
        each = [self.make(self.clips.joined(string)[None])[0] for string in strings]
        lengths = torch.tensor([len(features) for features in each])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        labels = [self.clips.labels[string] for string in strings]
        fill = torch.nn.utils.rnn.pad_sequence
        # The symbol of a word is one more than its number, for the blank is the first.
        ids = fill([one + 1 for one in labels], batch_first=True, padding_value=IGNORED)
        texts = [" ".join(self.words[number] for number in one.tolist()) for one in labels]
        real = real.to(self.device)
        return Batch(
            {"features": fill(each, batch_first=True).to(self.device), "real": real},
            PairTargets(ids.to(self.device), texts),
            real={"features": real, "real": real},
        )

    def part(self, rows: Tensor) -> StringSplit:
        """The strings at `rows`."""
        strings = [self.strings[row] for row in rows.tolist()]
        return StringSplit(self.clips, strings, self.words, self.make, self.device)


@dataclass(frozen=True)
class SpeechRecognition(ScoredFrames, OwnNetwork):
    """A network that recognises strings of spoken words, clips of one speaker that are joined.

    Splits: `test` is joined of the test clips. Of the train clips, `validation_size` are in the
    strings of `validation` and the others in those of `train`, so no clip is in two of them;
    `calibration` is a part of `train`. A clip is once in a string of `test` and of `validation`,
    and `passes` times in those of `train`. `split_seed` draws the clips, not `seed`.

    Args:
        name: the name of the task in records; the dataset's if None.
        architecture: the network's name in records.
        source: the clips.
        words: by the numbers of labels.
        features: ``package.module:function`` from waves (batch, samples) and `feature_arguments` to
            features (batch, frames, bands), such as `lowrank.tasks.spectrograms:speech_mels`.
        builder: ``package.module:function`` (or a class) that makes the network, given `arguments`.
            It maps `features` and `real`, bool (batch, frames), to scores (batch, fewer frames,
            1 + words), the blank first, and the number of real ones of these frames, (batch,).
        weights: the source of the network's weights; None keeps those of the builder.
        scores: by which the recognised texts are judged.
        least, most: the numbers of words of a string.
        passes: how often a train clip is in a string.
        validation_size: a tenth of the train clips, at most 1000, if not given.
        calibration_size: 128, or all strings of `train` if it has fewer, if not given.
        calibration_seed: draws `calibration` from `train`; by default the first ones are taken.
        seed: the seed of the initial weights and the order of batches.

    Raises:
        ValueError: an option of the wrong kind; from the methods, clips that do not fit, or a
            network that does not fit them or its weights.
    """

    units = "strings"
    batch_sizes = BatchSizes(quality=32, latency=(1,))

    name: str | None  # never None after __post_init__
    architecture: str
    source: HubSpokenWords
    words: Sequence[str]
    features: str
    builder: str
    weights: Weights | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    feature_arguments: Mapping[str, Any] = field(default_factory=dict)
    scores: TextScores = field(default_factory=RecognitionScores)
    least: int = 3
    most: int = 7
    passes: int = 4
    validation_size: int | None = None
    calibration_size: int | None = None
    calibration_seed: int | None = None
    split_seed: int = 0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_is("source", self.source, HubSpokenWords, "HubSpokenWords(dataset, rate)")
        object.__setattr__(self, "name", named(self.name, self.source.name))
        self._check_network()
        self._check_function("features", "feature_arguments")
        words = [] if isinstance(self.words, str) else list(self.words)
        if not words or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"words={self.words!r} must be texts that are not empty, by number")
        check_is("scores", self.scores, TextScores, "RecognitionScores()")
        for name in ("least", "most", "passes"):
            check_integer(name, getattr(self, name), least=1)
        check_division(
            self.validation_size, self.calibration_size, self.calibration_seed, self.split_seed
        )
        need("measures of recognised texts", "torchmetrics")

    def split(self, name: SplitName) -> StringSplit:
        check_split(name)
        if name == "test":
            return self._test_strings
        if name == "validation":
            return self._joined(self._train_clips, self._clips.validation, 1)
        return self._train_strings if name == "train" else self._calibration()

    def forward(self, model: nn.Module, batch: Batch) -> FrameScores:
        logits, frames = batch.run(model)
        return FrameScores(logits, frames, BLANK)

    def predict(self, model: nn.Module, batch: Batch) -> FrameScores:
        """The scores, and the texts that follow from them."""
        return self.forward(model, batch).written(self._decode)

    def judged_by(self) -> tuple[Metric, ...]:
        return (*self.scores.metrics(), loss_metric("text"), *agreement_metrics("frame"))

    def metrics(self) -> MetricCollection:
        return written_collection(self.scores)

    def example(self, batch_size: int = 1) -> Example:
        """The test string of the median length, as often as asked for."""
        test = self._test_strings
        lengths = torch.stack([self._test_clips.lengths[one].sum() for one in test.strings])
        usual = int(lengths.argsort()[(len(lengths) - 1) // 2])
        return test.batch(torch.full((batch_size,), usual)).inputs

    def protocol(self) -> dict[str, Any]:
        """The numbers of strings, and of test words, of which the error rate is."""
        return {**counted(self.split, self.units), "test_words": len(self._test_clips.labels)}

    def _check_outputs(self, model: nn.Module) -> None:
        batch = next(self.split("test").batches(2))
        symbols = 1 + len(self.words)
        try:
            with torch.no_grad():
                outputs = batch.fresh().run(model.eval())
        except Exception as error:  # A network of a user may raise anything.
            raise ValueError(
                f"the network of {self.builder} does not take features of shape "
                f"{tuple(batch.inputs['features'].shape)}: {type(error).__name__}: {error}"  # type: ignore[index]
            ) from error
        shapes = (
            [tuple(one.shape) for one in outputs if isinstance(one, Tensor)]
            if isinstance(outputs, tuple)
            else []
        )
        if [*map(len, shapes)] != [3, 1] or shapes[0][::2] != (2, symbols) or shapes[1] != (2,):
            raise ValueError(
                f"the network of {self.builder} gives {shapes or type(outputs).__name__} for two "
                f"strings, and not scores (2, frames, {symbols}), for a blank and "
                f"{len(self.words)} words, with the numbers of real frames (2,)"
            )

    def _decode(self, symbols: list[list[int]]) -> list[str]:
        return [
            " ".join(self.words[symbol - 1] for symbol in collapsed(row, BLANK)) for row in symbols
        ]

    def _calibration(self) -> StringSplit:
        strings = self._train_strings
        size = min(128, len(strings)) if self.calibration_size is None else self.calibration_size
        return strings.part(calibration_rows(len(strings), size, self.calibration_seed, self.units))

    @cached_property
    def _test_strings(self) -> StringSplit:
        clips = self._test_clips
        return self._joined(clips, torch.arange(len(clips.labels)), 1)

    @cached_property
    def _train_strings(self) -> StringSplit:
        return self._joined(self._train_clips, self._clips.train, self.passes)

    @cached_property
    def _test_clips(self) -> SpokenClips:
        return self._read("test")

    @cached_property
    def _train_clips(self) -> SpokenClips:
        return self._read("train")

    @cached_property
    def _clips(self) -> Division:
        return divided(
            len(self._train_clips.labels),
            (self.validation_size, None),
            most=(1000, 1),
            of=f"clips of {self.source.dataset}",
            calibration_seed=None,
            split_seed=self.split_seed,
        )

    def _joined(self, clips: SpokenClips, rows: Tensor, passes: int) -> StringSplit:
        speakers = clips.speakers[rows]
        strings = strings_of(speakers, self.least, self.most, passes, self.split_seed)
        return StringSplit(
            clips,
            [rows[string] for string in strings],
            tuple(self.words),
            bound(self.features, self.feature_arguments),
            self.device,
        )

    def _read(self, part: Any) -> SpokenClips:
        found = self.source.read(part)
        largest = int(found.labels.max())
        if largest >= len(self.words):
            raise ValueError(
                f"the clips of split {part!r} of {self.source.dataset!r} have label {largest}, and "
                f"there are {len(self.words)} words from 0"
            )
        return found

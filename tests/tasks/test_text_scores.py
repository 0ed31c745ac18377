"""Scores from summed counts are those of the libraries, their errors near those of a bootstrap."""

import jiwer
import numpy as np
import pytest
import sacrebleu
import torch

from lowrank.statistics.means import error_of
from lowrank.tasks import RecognitionScores, TranslationScores
from lowrank.tasks.summed_scores import SummedScores

WORDS = "a man in the red hat rides his small dog over two green hills , and sings .".split()


def texts(count=60):
    """Written and wanted texts, some equal, some with words changed, lost or added."""
    random, written, wanted = np.random.default_rng(0), [], []
    for _ in range(count):
        words = random.choice(WORDS, random.integers(1, 14)).tolist()
        wanted.append(" ".join(words))
        for _ in range(random.integers(0, 4)):
            at = random.integers(len(words) + 1)
            words[at : at + random.integers(2)] = random.choice(WORDS, random.integers(2)).tolist()
        written.append(" ".join(words))
    return written, wanted


WRITTEN, WANTED = texts()


def measured(scores, written=WRITTEN, wanted=WANTED):
    names = [metric.name for metric in scores.metrics()]
    metric = SummedScores(names, scores.counts, scores.score)
    for start in range(0, len(written), 7):
        metric.update(written[start : start + 7], wanted[start : start + 7])
    return metric


def test_bleu_and_chrf_are_those_of_sacrebleu():
    found = measured(TranslationScores()).compute()
    bleu = sacrebleu.corpus_bleu(WRITTEN, [WANTED]).score / 100
    chrf = sacrebleu.corpus_chrf(WRITTEN, [WANTED]).score / 100
    assert float(found["bleu"]) == pytest.approx(bleu, rel=1e-6)
    assert float(found["chrf"]) == pytest.approx(chrf, rel=1e-6)


@pytest.mark.parametrize("options", [{"tokenize": "char"}, {"lowercase": True}])
def test_options_of_bleu_are_those_of_sacrebleu(options):
    wanted = [text.upper() for text in WANTED]
    found = measured(TranslationScores(**options), wanted=wanted).compute()["bleu"]
    known = sacrebleu.corpus_bleu(WRITTEN, [wanted], **options).score / 100
    assert float(found) == pytest.approx(known, rel=1e-6)


def test_error_rates_are_those_of_jiwer():
    found = measured(RecognitionScores()).compute()
    assert float(found["wer"]) == pytest.approx(jiwer.wer(WANTED, WRITTEN), rel=1e-6)
    assert float(found["cer"]) == pytest.approx(jiwer.cer(WANTED, WRITTEN), rel=1e-6)


@pytest.mark.parametrize("scores", [TranslationScores(), RecognitionScores()], ids=["bleu", "wer"])
def test_errors_are_near_those_of_a_bootstrap(scores):
    metric, random = measured(scores), np.random.default_rng(1)
    for name, influences in metric.influences().items():
        assert influences.sum() == pytest.approx(0, abs=1e-9)
        counts = torch.cat(getattr(metric, name)).numpy()
        drawn = random.integers(len(counts), size=(400, len(counts)))
        spread = np.std([scores.score(name, counts[rows].sum(axis=0)) for rows in drawn])
        assert error_of(influences) == pytest.approx(spread, rel=0.2)


def test_one_text_has_a_score_and_no_influence():
    metric = measured(TranslationScores(), WRITTEN[:1], WANTED[:1])
    assert metric.influences()["bleu"].tolist() == [0.0]

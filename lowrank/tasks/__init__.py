"""Tasks: a model, its data and its metrics."""

from lowrank.metrics.metric import Metric as Metric
from lowrank.model.batch import Batch as Batch
from lowrank.tasks.agreement import agreement_metrics as agreement_metrics
from lowrank.tasks.causal_lm import CausalLM as CausalLM
from lowrank.tasks.class_scores import ClassScores as ClassScores
from lowrank.tasks.image_changes import Inverted as Inverted
from lowrank.tasks.image_changes import Noisy as Noisy
from lowrank.tasks.image_changes import Permuted as Permuted
from lowrank.tasks.image_changes import Rotated as Rotated
from lowrank.tasks.image_classification import ImageClassification as ImageClassification
from lowrank.tasks.image_sources import Digits as Digits
from lowrank.tasks.image_sources import HubImages as HubImages
from lowrank.tasks.image_sources import Images as Images
from lowrank.tasks.image_sources import ImageSource as ImageSource
from lowrank.tasks.task import Split as Split
from lowrank.tasks.task import Task as Task
from lowrank.tasks.task import loss_metric as loss_metric
from lowrank.tasks.text_classification import TextClassification as TextClassification
from lowrank.tasks.text_sources import HubText as HubText
from lowrank.tasks.token_sequences import Packing as Packing
from lowrank.tasks.token_sequences import TokenSplit as TokenSplit
from lowrank.tasks.training import Training as Training
from lowrank.tasks.weights import Published as Published
from lowrank.tasks.weights import Trained as Trained
from lowrank.tasks.weights import TrainedOn as TrainedOn
from lowrank.tasks.weights import Weights as Weights

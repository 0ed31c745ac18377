"""Several tasks on one base: what each method keeps of quality, and what is stored once."""

from lowrank.reporting.across_tasks.contenders import Competitor as Competitor
from lowrank.reporting.across_tasks.contenders import contest as contest
from lowrank.reporting.across_tasks.pays import set_against as set_against
from lowrank.reporting.across_tasks.scores import scores as scores

"""Figures of results: quality against cost, errors and bytes of layers, spectra of weights,
and what compression does inside of a model."""

from lowrank.reporting.plots.break_even import break_even as break_even
from lowrank.reporting.plots.inside import attention_figure as attention_figure
from lowrank.reporting.plots.inside import direction_figure as direction_figure
from lowrank.reporting.plots.inside import heads_figure as heads_figure
from lowrank.reporting.plots.inside import kept_spectra as kept_spectra
from lowrank.reporting.plots.inside import mask_figure as mask_figure
from lowrank.reporting.plots.inside import similarity_figure as similarity_figure
from lowrank.reporting.plots.inside import token_figure as token_figure
from lowrank.reporting.plots.layers import layer_figure as layer_figure
from lowrank.reporting.plots.norms import norm_figure as norm_figure
from lowrank.reporting.plots.paper import Paper as Paper
from lowrank.reporting.plots.paper import only as only
from lowrank.reporting.plots.paper import paper_caption as paper_caption
from lowrank.reporting.plots.paper import paper_curve as paper_curve
from lowrank.reporting.plots.paper import save_for_print as save_for_print
from lowrank.reporting.plots.quality import quality_curve as quality_curve
from lowrank.reporting.plots.spectra import spectra as spectra
from lowrank.reporting.plots.style import Style as Style
from lowrank.reporting.plots.style import method_styles as method_styles
from lowrank.reporting.plots.style import save as save
from lowrank.reporting.plots.tasks import tasks_figure as tasks_figure

"""Figures of the results: quality against cost, layer by layer, and the spectra of weights."""

from lowrank.plots.break_even import break_even as break_even
from lowrank.plots.layers import layer_figure as layer_figure
from lowrank.plots.norms import norm_figure as norm_figure
from lowrank.plots.quality import quality_curve as quality_curve
from lowrank.plots.spectra import spectra as spectra
from lowrank.plots.style import Style as Style
from lowrank.plots.style import method_styles as method_styles
from lowrank.plots.style import save as save

"""What compression does inside of a model: representations, directions, masks and attention."""

from lowrank.inspection.attention import attention_maps as attention_maps
from lowrank.inspection.directions import direction_drops as direction_drops
from lowrank.inspection.heads import kept_of_heads as kept_of_heads
from lowrank.inspection.masks import kept_images as kept_images
from lowrank.inspection.similarity import cka as cka
from lowrank.inspection.similarity import layer_similarity as layer_similarity
from lowrank.inspection.weights import matrices as matrices

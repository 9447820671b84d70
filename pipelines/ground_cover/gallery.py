"""The patches that a class text finds, as a picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pipelines.ground_cover.score_figures import retrieval_gallery
from pipelines.ground_cover.training import Inputs
from pipelines.report.figures import read_true_color

NUM_COLUMNS = 6
HOLDS_FROM = 0.1


def class_gallery(inputs: Inputs, retrieved: Mapping[str, Sequence[int]], num_columns: int = NUM_COLUMNS) -> Figure:
    """Per class the patches most alike its text, in true color; those that hold a tenth of it or more are framed.

    Args:
        inputs: Patches and labels.
        retrieved: Numbers of examples by class, most alike first.
        num_columns: Patches per class.
    """
    examples = inputs.examples
    true_color, hits = {}, {}
    for index, each in enumerate(examples.classes):
        chosen = np.asarray(retrieved[each.name][:num_columns], dtype=np.intp)
        true_color[each.name] = read_true_color(inputs.dataset, examples.positions[chosen])
        hits[each.name] = (examples.fractions[chosen, index] >= HOLDS_FROM).tolist()
    return retrieval_gallery(true_color, hits, num_columns)

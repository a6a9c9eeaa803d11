"""The model's diagram: what is lit, what is said of it, and that no label leaves its box."""

import pytest
from matplotlib.colors import to_hex

from shalab.diagram import DIM, LIT, PARTS, model_diagram
from shalab.errors import InputError


def test_lights_what_is_asked_for_and_says_so():
    picture = model_diagram("head", "memory")
    filled = [to_hex(patch.get_facecolor()).upper() for patch in picture.figure.axes[0].patches]
    assert filled.count(LIT) == 2 and filled.count(DIM) == len(PARTS) - 2
    assert picture.alt.endswith("Lit: LayerNorm, single head and memory.")
    assert model_diagram().alt.endswith("Lit: nothing.")


def test_an_unknown_part_is_named():
    with pytest.raises(InputError, match="no part heads; the picture shows bytes, "):
        model_diagram("heads")


@pytest.mark.parametrize("part", PARTS)
def test_every_label_fits_its_box_also_in_bold(part):
    figure = model_diagram(part).figure
    figure.draw_without_rendering()
    axes = figure.axes[0]
    label = next(text for text in axes.texts if text.get_text() == PARTS[part][4])
    box = label.get_window_extent().transformed(axes.transData.inverted())
    left, bottom, width, height, _ = PARTS[part]
    assert left < box.x0 and box.x1 < left + width and bottom < box.y0 and box.y1 < bottom + height

import pytest
from matplotlib.colors import to_hex

from shalab.cell_diagram import DIM, GATES, QUESTIONS, cell_diagram
from shalab.errors import InputError


def dimmed(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts if to_hex(text.get_color()).upper() == DIM]


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_question_is_in_colour_with_its_numbers(question):
    numbers = {name: 0.125 for name, gate in GATES.items() if gate[-1] == question}
    picture = cell_diagram(question, **numbers)
    others = [gate[1] for gate in GATES.values() if gate[-1] != question]
    assert set(dimmed(picture)) & {gate[1] for gate in GATES.values()} == set(others)
    assert [text.get_text() for text in picture.figure.axes[0].texts].count("0.125") == len(numbers)
    assert QUESTIONS[question] in picture.alt and "0.125" in picture.alt


def test_the_whole_is_in_colour_and_what_is_unknown_is_told():
    assert dimmed(cell_diagram()) == []
    for wrong in ({"question": "ask"}, {"z": 1.0}):
        with pytest.raises(InputError, match="expected one of keep, let in, say and numbers for added, f, "):
            cell_diagram(**wrong)

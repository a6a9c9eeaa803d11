"""Predictions of a number and of a curve, in and without a browser."""

import math

import numpy as np
import pytest
from lab import violations
from matplotlib.figure import Figure
from playwright.sync_api import expect

from shalab import InputError
from shalab.plots import Picture, png
from shalab.widgets import PredictedCurve, Prediction

QUESTION = "How many bits per byte will the network need?"


def number(**more):
    return Prediction(QUESTION, 1.67, low=0, high=8, unit="bits per byte", **more)


def drawn():
    return PredictedCurve([0, 1, 2, 4], [3.0, 2.0, 1.0, 1.0], "steps", "bits per byte", "It learns")


def test_a_number_and_what_is_said_about_it():
    asked = number()
    assert asked.told == "" and asked.summary() == f"{QUESTION}\nIt is 1.67 bits per byte."
    asked.guess = 2.5
    assert asked.told == ""
    asked.revealed = True
    assert asked.told == "You said 2.5; it is 1.67 bits per byte: 0.83 too high."
    asked.guess = 1.5
    assert asked.told == "You said 1.5; it is 1.67 bits per byte: 0.17 too low."
    asked.guess = 1.67
    assert asked.told.endswith("exactly right.") and asked.summary() == f"{QUESTION}\n{asked.told}"
    asked.guess = None
    assert asked.told == "It is 1.67 bits per byte."


def test_a_curve_and_what_is_said_about_it():
    asked = drawn()
    assert asked.places == [0, 1, 2, 3] and asked.limits == [0, 4] and asked.guess == [None] * 4
    measured = "It learns\nbits per byte over steps, measured: 0: 3, 1: 2, 2: 1, 4: 1"
    assert asked.summary() == measured
    asked.revealed = True
    assert asked.told == "You drew nothing; the blue curve is the measured one."
    asked.guess = [3.5, None, 1.0, 2.0]
    assert asked.told == "Your curve is 0.5 away on average, 1 at most (bits per byte)."
    assert asked.summary() == f"{measured}\n{asked.told}"
    formula = PredictedCurve([0, 1], [1, 2], "x", "y", "t", how="computed")
    formula.revealed = True
    assert "x, computed: 0: 1" in formula.summary() and formula.told.endswith("the computed one.")


def test_the_places_of_a_long_curve_are_a_few_of_it():
    y = np.sin(np.arange(1000))
    asked = PredictedCurve(np.arange(1000), y, "x", "y", "t")
    assert len(asked.places) == 25 and (asked.places[0], asked.places[-1]) == (0, 999)
    assert set(np.diff(asked.places)) <= {41, 42}
    assert asked.limits == pytest.approx([y.min() - np.ptp(y) / 2, y.max() + np.ptp(y) / 2])
    assert PredictedCurve([1, 2], [5, 5], "x", "y", "t").limits == [2.5, 7.5]
    assert PredictedCurve([1, 2], [0, 0], "x", "y", "t").limits == [0, 0.5]


def test_pictures_are_functions_of_the_data():
    def image(widget):
        return widget._repr_mimebundle_()[0]["image/png"]

    assert image(number()) == image(number()) and image(drawn()) == image(drawn())
    guessed, curved = number(), drawn()
    guessed.guess, curved.guess = 3.0, [1, 1, None, 1]
    assert image(guessed) != image(number()) and image(curved) != image(drawn())
    assert [text.get_text() for text in guessed.picture().axes[0].texts] == ["it is 1.67", "you said 3"]


def test_a_ready_picture_is_shown_with_the_answer():
    figure = Figure()
    asked = number(picture=Picture(figure, "a curve that falls"))
    assert asked.picture() is figure and asked.alt == "a curve that falls" and asked.image == png(figure)


@pytest.mark.parametrize("answer, low, high", [(9, 0, 8), (-1, 0, 8), (1, 1, 1), (math.nan, 0, 8), (1, 0, math.inf)])
def test_wrong_scales(answer, low, high):
    with pytest.raises(InputError, match="on a scale from low to high"):
        Prediction("?", answer, low=low, high=high)


@pytest.mark.parametrize("guess", [-0.1, 8.1, math.nan])
def test_wrong_guesses(guess):
    with pytest.raises(InputError, match="from 0 to 8"):
        number().guess = guess


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1], [1], "at least 2"), ([1, 2], [1], r"got \(2,\), \(1,\)"), ([1, 2], [1, math.nan], "finite"),
        ([[1, 2]], [[1, 2]], "got"), ([2, 1], [1, 2], "rise"), ([1, 1], [1, 2], "rise"),
        ([-1, 1], [1, 2], "at least 0"),
    ],
)  # fmt: skip
def test_wrong_curves(x, y, message):
    with pytest.raises(InputError, match=message):
        PredictedCurve(x, y, "x", "y", "t")


@pytest.mark.parametrize("guess", [[1, 1, 1], [1, 1, 1, 4.1], [1, 1, 1, -0.1], [1, 1, 1, "1"], [1, 1, 1, math.nan]])
def test_wrong_guesses_of_a_curve(guess):
    with pytest.raises(InputError, match="4 numbers from 0 to 4"):
        drawn().guess = guess


NUMBER = f"""
from matplotlib.figure import Figure
from shalab.plots import Picture
from shalab.widgets import PredictedCurve, Prediction
asked = Prediction({QUESTION!r}, 1.67, low=0, high=8, unit="bits per byte", picture=Picture(Figure((4, 2)), "falls"))
asked"""
CURVE = """
import numpy as np
x = np.arange(5) * 100
drawn = PredictedCurve(x, 2 + 3 * 0.5 ** (x / 100), "steps", "bits per byte", "How will the loss fall?")
drawn"""


def test_in_the_browser(lab):
    """By keyboard, and the curve by mouse, too; the kernel sees both.

    Broken on purpose and seen to fail: a reveal that is not sent; a stroke that leaves out the places it skips.
    """
    with lab.notebook(NUMBER, CURVE, name="prediction.ipynb") as page:
        one, two = page.locator(".shalab").first, page.locator(".shalab").last
        field, rail = one.get_by_role("spinbutton", name="your guess"), one.get_by_role("slider", name=QUESTION)
        field.fill("2.5")
        field.press("Tab")
        expect(rail).to_have_value("2.5")
        rail.press("ArrowRight")
        expect(field).to_have_value("2.6")
        field.fill("99")
        field.press("Tab")
        expect(field).to_have_value("8")
        field.fill("2.5")
        one.get_by_role("button", name="reveal").press("Enter")
        told = "You said 2.5; it is 1.67 bits per byte: 0.83 too high."
        expect(one.get_by_role("status")).to_have_text(told)
        expect(one.get_by_role("img", name=told)).to_be_visible()
        expect(one.get_by_role("img", name="falls")).to_be_visible()
        expect(field).to_be_disabled()
        lab.says(page, "print(asked.guess, asked.revealed)", "2.5 True")

        pad = two.get_by_role("slider", name="your curve")
        pad.press("ArrowUp")  # from the middle of 0.69 to 6.5
        pad.press("PageDown")
        pad.press("End")
        pad.press("ArrowDown")
        low, high = map(float, lab.execute(page, "print(*drawn.limits)").split())
        middle, step = (low + high) / 2, (high - low) / 50
        first, last = pytest.approx(middle - 4 * step), pytest.approx(middle - 5 * step)
        lab.says(page, "print(drawn.guess)", [first, None, None, None, last], eval)
        assert pad.get_attribute("aria-valuetext").startswith("at 400: ")
        two.get_by_role("button", name="clear").press("Enter")
        expect(two.get_by_role("img", name="bits per byte over steps, 0 of 5 places drawn")).to_be_visible()
        box = two.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + 46, box["y"] + 22)  # the axes' upper left corner ...
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 8, box["y"] + 226)  # ... to the lower right in one stroke
        page.mouse.up()
        expect(two.get_by_role("img", name="5 of 5 places drawn")).to_be_visible()
        line = [pytest.approx(y, abs=0.1) for y in np.linspace(high, low, 5)]
        lab.says(page, "print(drawn.guess)", line, eval)
        guess = lab.execute(page, "print(drawn.guess)")
        two.get_by_role("button", name="reveal").press("Enter")
        expect(two.get_by_role("status")).to_contain_text("away on average")
        assert lab.execute(page, "print(drawn.told)") == two.get_by_role("status").inner_text()
        pad.press("ArrowUp")
        assert lab.execute(page, "print(drawn.guess)") == guess
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), "prediction")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_small_windows_in_both_themes(lab, dark):
    more = "asked.guess, asked.revealed = 7.9, True\ndrawn.guess, drawn.revealed = [1, 3, 3, 2, None], True"
    with lab.notebook(NUMBER, CURVE, more, name="prediction_small.ipynb", width=800, height=1200, dark=dark) as page:
        expect(page.get_by_text("away on average")).to_be_visible()
        expect(page.locator(".shalab")).to_have_count(2)
        for widget in page.locator(".shalab").all():
            assert widget.evaluate("node => node.scrollWidth <= node.clientWidth")
        mark, button = (page.locator(place).first.bounding_box() for place in (".shalab-yours", ".shalab-row button"))
        assert mark["y"] >= button["y"] + button["height"], (mark, button)
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), f"prediction_small_{'dark' if dark else 'light'}")

"""The guessing game, in and without a browser."""

import lzma

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import violations
from playwright.sync_api import expect

from shalab import InputError
from shalab.widgets import GuessingGame
from shalab.widgets.guessing import SIGNS, counting_bits, shannon_bounds
from shalab.widgets.surprise import byte_bits


def test_bounds_by_hand():
    assert shannon_bounds([1, 1, 1]) == (0, 0)
    # q = 1/2, 1/4, 1/4: upper 1.5; lower 1 (1/4) log 1 + 2 (0) log 2 + 3 (1/4) log 3
    assert shannon_bounds([1, 1, 2, 3]) == pytest.approx((0.75 * np.log2(3), 1.5))
    # all of eight equally often: nothing is lost
    assert shannon_bounds(range(1, 9)) == pytest.approx((3, 3))
    # q = 1/4, 3/4 does not fall; sorted, 2 (1/4) log 2
    assert shannon_bounds([1, 2, 2, 2]) == pytest.approx((0.5, 2 - 0.75 * np.log2(3)))
    # q = 0, 1/2, 0, 1/2 does not fall; sorted, 2 (1/2) log 2
    assert shannon_bounds([2, 4]) == pytest.approx((1, 1))


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40))
def test_the_lower_bound_is_never_above_the_upper_one(guesses):
    lower, upper = shannon_bounds(guesses)
    assert -1e-9 <= lower <= upper + 1e-9


def test_a_byte_that_was_given_up_is_charged_with_what_was_left():
    """After k wrong guesses there were 96 - k bytes to choose from; to the lower bound it was the next guess."""
    lower, upper = shannon_bounds([1, -4])
    assert upper == pytest.approx(1 + np.log2(92) / 2)
    assert lower == shannon_bounds([1, 5])[0]
    assert shannon_bounds([5, -4])[0] == 0 < shannon_bounds([4, -4])[0]
    assert shannon_bounds([0] * 7) == pytest.approx((0, np.log2(96)))
    assert shannon_bounds([-95])[1] == 0  # one was left


def test_bounds_enclose_the_entropy_of_random_sources():
    """Markov sources of known entropy, and a reader who knows their probabilities: the exact q, as counts."""
    random = np.random.default_rng(0)
    n = 1_000_000
    for size in (2, 3, 7):
        for sharpness in (0.1, 1, 10):
            p = random.dirichlet(np.full(size, 1 / sharpness), size)  # (context, next)
            stationary = np.linalg.matrix_power(p, 999)[0]
            entropy = -(stationary @ (p * np.log2(np.maximum(p, 1e-300))).sum(1))
            q = stationary @ -np.sort(-p, axis=1)
            lower, upper = shannon_bounds(np.repeat(np.arange(1, size + 1), (n * q).round().astype(int)))
            assert lower <= entropy + 1e-4 and entropy <= upper + 1e-4
            assert upper - lower < 1  # they say something


def test_an_oracle_that_plays_finds_the_source_again():
    """Three letters with 1/2, 1/4, 1/4, drawn alike at each place: the upper bound is the entropy, 1.5."""
    text = np.random.default_rng(0).choice(np.frombuffer(b"aabc", np.uint8), 20_000)
    game = GuessingGame(text, 1, 20_000)
    game.play(lambda before: b"abc")
    assert game.bits_per_byte() == pytest.approx((0.75 * np.log2(3), 1.5), abs=0.01)
    assert "few" not in game.standing and game.known == text[1:].tobytes().decode()


def test_the_caution_says_how_much_too_low_the_upper_bound_is():
    """Against the mean over many short games of the source whose upper bound is known."""
    random = np.random.default_rng(0)
    q = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    draws = random.choice(np.arange(1, 7), (500, 40), p=q)
    missing = -(q * np.log2(q)).sum() - np.mean([shannon_bounds(draw)[1] for draw in draws])
    game = GuessingGame("x" * 41, 1, 41)
    game.guesses = [1] * 20 + [2] * 8 + [3] * 4 + [4] * 4 + [5] * 2 + [6] * 2
    assert missing == pytest.approx(float(game.standing.split()[-1].strip(".")), abs=0.02) and missing > 0.05


def game():
    return GuessingGame("Zürich: <the town>\nof", 8, 22)


def test_guesses_are_told_and_counted():
    played = game()
    assert played.known == "" and played.told == "Which byte comes next?" and played.before == "Zürich:"
    assert played.summary() == played.standing == "0 of 14 bytes known; a score from 20 on."
    assert not played.guess("<")
    assert played.told == "'<' is wrong. Guess again." and played.tried == "<"
    assert not played.guess("<")
    assert played.tried == "<" and "not counted again" in played.told
    assert not played.guess("\n") and played.told == r"'\n' is wrong. Guess again."
    assert played.guess(" ") and played.told == "' ' is right, at guess 3. What comes next?"
    assert (played.guesses, played.known, played.tried) == ([3], " ", "")
    assert not played.guess("T") and played.guess("<")
    assert not played.guess("T")  # a capital is another byte
    assert played.guess("t") and played.guesses == [3, 2, 2]
    played.guess("x")
    played.guess("y")
    played.give_up()
    assert played.told == "It was 'h'. What comes next?"
    assert played.guesses == [3, 2, 2, -2] and played.known == " <th" and played.tried == ""
    assert played.bits_per_byte() == shannon_bounds([3, 2, 2, -2]) and played.standing.startswith("4 of 14")
    with pytest.raises(InputError, match="at least 20 bytes, got 4"):
        played.compare()


def test_the_end_and_a_later_kernel():
    played = game()
    played.play(lambda before: range(256), 5)
    kept = played.guesses
    assert kept[0] == 2 and len(kept) == 5  # the line break is the first that a keyboard types, the blank the next
    other = game()
    other.guesses = kept
    assert other.known == " <the" and other.standing == played.standing
    other.play(lambda before: SIGNS)
    assert other.known == " <the town>\nof" and other.guesses[:5] == kept
    before = other.guesses
    other.give_up()
    assert not other.guess("x") and other.guesses == before and other.told == "All 14 bytes are known."


def test_a_program_sees_what_precedes_and_nothing_else():
    seen = []

    def order(before):
        seen.append(before.tobytes())
        return SIGNS

    game().play(order, 2)
    assert seen == ["Zürich:".encode(), "Zürich: ".encode()]


def test_machines_on_the_same_bytes(text, small):
    text = np.where((text < 32) | (text > 126), 10, text).astype(np.uint8)
    played = GuessingGame(text, 1500, 1600, small)
    played.play(lambda before: SIGNS, 40)
    scores = played.compare()
    lower, upper = played.bits_per_byte()
    assert list(scores) == ["you, upper bound", "you, lower bound", "unigram", "6-gram", "network", "xz"]
    assert list(scores.values())[:2] == [upper, lower] and played.n_scored == 40
    counts = np.bincount(text[:1500], minlength=256)
    assert scores["unigram"] == pytest.approx(-np.log2((counts[text[1500:1540]] + 8 / 256) / 1508).mean())
    assert scores["network"] == byte_bits(small, text[:1600], 1500)[:40].mean()
    assert scores["xz"] * 40 / 8 == sum(
        sign * len(lzma.compress(text[:end].tobytes(), lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))
        for sign, end in ((1, 1540), (-1, 1500))
    )
    assert (
        f"40 of 100 bytes known: your bits per byte lie between {lower:.2f} and {upper:.2f}. Of so" in played.summary()
    )
    assert f"6-gram            {scores['6-gram']:5.2f} bits per byte" in played.summary()
    assert "network" not in GuessingGame(text, 1500, 1600)._prices


@pytest.mark.parametrize("order, strength", [(1, 8), (3, 8), (6, 1)])
def test_counting_is_what_the_formula_says(order, strength):
    """By a search through the bytes before, for contexts that overlap themselves and some that were never seen."""
    data = b"aaaaab" + b"ba" * 4 + b"aac"

    def bits(here, seen):
        p = 1 / 256
        for n in range(order):
            places = [i for i in range(n, seen) if data[i - n : i] == data[here - n : here]]
            p = (sum(data[i] == data[here] for i in places) + strength * p) / (len(places) + strength)
        return -np.log2(p)

    counted = counting_bits(np.frombuffer(data, np.uint8), 9, len(data), order, strength)
    assert counted == pytest.approx([bits(here, 9) for here in range(9, len(data))])


def test_the_passage_is_hidden():
    """Nothing that is sent to the browser, drawn or written holds a byte that is not known yet."""
    played = GuessingGame("before QWXYZ", 7, 12)
    played.guess("Q")
    state = played.get_state()
    assert state["known"] == "Q" and not any("WXYZ" in str(value) for name, value in state.items() if name[0] != "_")
    assert "W" not in played.summary()
    shown = "".join(sign.get_text() for sign in played.picture().axes[0].texts)
    assert shown == "before Q?"


def test_pictures_are_functions_of_the_data():
    def image(widget):
        return widget._repr_mimebundle_()[0]["image/png"]

    first, second, third = game(), game(), game()
    assert image(first) == image(second)
    for played in (first, second):
        played.guesses = [1, 5, 2]
    third.guesses = [1, 5, 3]
    assert image(first) == image(second) != image(third)
    first, second = (GuessingGame("ab " * 30, 1, 80) for _ in range(2))
    first.guesses = second.guesses = [1, 2, 3] * 9
    assert image(first) == image(second)
    assert "you, upper bound" in first.scores  # a picture takes nothing away


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("abc", 0, 2), "1 to 20,000 bytes from 1 to 3, got 0 to 2"),
        (("abc", 2, 2), "got 2 to 2"),
        (("abc", 1, 4), "got 1 to 4"),
        (("x" * 20_003, 1, 20_002), "got 1 to 20002"),
        (("ab\tc", 1, 4), "that a keyboard types .* got 9 at 2; choose another"),
        (("abé", 1, 4), "got 195 at 2"),
        ((5, 1, 2), "str, bytes"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(InputError, match=message):
        GuessingGame(*arguments)


@pytest.mark.parametrize("sign", ["", "ab", "é", "\t", "\x00"])
def test_wrong_guesses(sign):
    played = game()
    with pytest.raises(InputError, match="one ASCII sign or a line break"):
        played.guess(sign)
    played._on_message(None, {"guess": sign}, [])
    assert "one ASCII sign" in played.told and played.tried == ""


@pytest.mark.parametrize("guesses", [[1] * 15, [97], [-96]])
def test_wrong_states(guesses):
    with pytest.raises(InputError, match="at most 14 numbers from -95 to 96"):
        game().guesses = guesses


def test_an_order_that_lacks_a_byte():
    with pytest.raises(InputError, match="lacks 60"):
        game().play(lambda before: b" the")
    with pytest.raises(InputError, match="at least one byte, got none"):
        game().bits_per_byte()


CELL = """
from shalab.widgets import GuessingGame
text = "The cat <sat> on the mat. <The> cat\\nsat on it all day long, and then on the dog." * 3
game = GuessingGame(text, 106, 130)
game
"""


def test_in_the_browser(lab):
    """By keyboard alone: right and wrong guesses, the line break, giving up, the comparison, the end; a second view.

    Broken on purpose and seen to fail: the field not emptied; Enter not sent; the passage not drawn again.
    """
    with lab.notebook(CELL, name="guessing.ipynb") as page:
        told = page.locator(".shalab strong").first
        field = page.get_by_label("your guess").first
        text = page.get_by_role("group", name="the text so far")
        expect(told).to_have_text("Which byte comes next?")
        assert text.inner_text().endswith("on the mat. ?")
        field.press("x")
        expect(told).to_have_text("'x' is wrong. Guess again.")
        expect(field).to_have_value("")
        field.press("Enter")
        expect(told).to_have_text("'\\n' is wrong. Guess again.")
        field.press("Space")
        expect(page.get_by_text("wrong so far: x ↵ ␣")).to_be_visible()
        field.press("<")
        expect(told).to_have_text("'<' is right, at guess 4. What comes next?")
        assert lab.execute(page, "print(game.guesses, repr(game.known), repr(game.tried))") == "[4] '<' ''"
        expect(page.get_by_text("1 of 24 bytes known; a score from 20 on.")).to_be_visible()
        expect(page.get_by_role("button", name="compare")).to_be_disabled()
        field.press_sequentially("The> ")
        expect(told).to_have_text("' ' is right, at guess 1. What comes next?")
        field.press_sequentially("é")
        expect(told).to_contain_text("must be one ASCII sign")
        page.get_by_role("button", name="give up").press("Enter")
        expect(told).to_have_text("It was 'c'. What comes next?")
        expect(field).to_be_focused()
        assert text.inner_text().endswith("mat. <The> c?")
        lab.execute(page, "game")
        field.press_sequentially("at")
        expect(text.last).to_contain_text("<The> cat?")
        field.press("Enter")
        expect(told).to_have_text("'\\n' is right, at guess 1. What comes next?")
        assert text.last.inner_text().endswith("cat↵\n?")
        field.press_sequentially("sat on it al")
        expect(page.get_by_role("button", name="compare").first).to_be_enabled()  # from 20 bytes on
        page.get_by_role("button", name="compare").first.press("Enter")
        table = page.get_by_role("table", name="on the first 22 bytes").first
        kernel = lab.execute(page, "print(*(f'{bits:.2f}' for bits in game.compare().values()))").split()
        expect(table.locator("tbody td")).to_have_text(kernel)
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".shalab").first, "guessing")
        field.press_sequentially("l ")
        expect(told).to_have_text("All 24 bytes are known.")
        expect(field).to_be_disabled()
        assert lab.execute(page, "print(game.guesses)") == str([4, 1, 1, 1, 1, 1, 0] + [1] * 17)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_small_windows_in_both_themes(lab, dark):
    cell = """
from shalab.widgets import GuessingGame
game = GuessingGame("The quick brown fox, and its lazy dog. " * 60, 1200, 1400)
game.guesses = [1, 2, 3, 5, 9, 17, 33, 65, 96, 0] * 19
game.compare()
game.guess("x")
game"""
    with lab.notebook(cell, name="guessing_small.ipynb", width=800, height=1000, dark=dark) as page:
        shown = page.locator(".shalab")
        assert shown.evaluate("node => node.scrollWidth <= node.clientWidth")
        page.get_by_label("your guess").press("q")
        expect(page.get_by_text("wrong so far: x q")).to_be_visible()
        bars = [bar.bounding_box() for bar in page.locator(".shalab-bar").all()]
        assert len({round(bar["x"]) for bar in bars if bar["width"]}) == 1, bars  # all begin at one place
        assert violations(page, ".shalab") == []
        lab.picture(shown, f"guessing_small_{'dark' if dark else 'light'}")

"""The token explorer and the claim dial, in and without a browser."""

import math

import numpy as np
import pytest
from lab import violations
from playwright.sync_api import expect

from shalab import InputError
from shalab.metrics import NATS_PER_BIT
from shalab.tokenization import Claim
from shalab.widgets import ClaimDial, TokenExplorer

TEXT = "a café\nno"  # 10 bytes
BITS = np.array([1, 2, 3, 0.5, 0.25, 4, 2.25, 6, 0.75, 1.25])  # 21 in all
CUTS = {"word": np.array([1, 6, 1, 2]), "halves": np.array([5, 5])}


def explorer():
    return TokenExplorer(TEXT, BITS, CUTS)


def test_pieces_and_totals_by_hand():
    shown = explorer()
    assert shown.pieces == [[1, 1.0], [6, 12.0], [1, 6.0], [2, 2.0]]
    assert shown.totals == [[4, pytest.approx(2 ** (21 / 4)), 2.1], [2, pytest.approx(2**10.5), 2.1]]
    shown.longest = 2
    assert shown.pieces == [[1, 1.0], [2, 5.0], [2, 0.75], [2, 6.25], [1, 6.0], [2, 2.0]]
    assert shown.totals[0][:2] == [6, pytest.approx(2**3.5)] and shown.totals[1][0] == 6
    assert [bpb for *_, bpb in shown.totals] == [2.1, 2.1]
    shown.cursor = 5
    shown.set_trait("longest", 6)
    assert shown.cursor == 3  # the last piece that there is
    shown.shown = 1
    assert shown.pieces == [[5, 6.75], [5, 14.25]] and shown.cursor == 1


def test_the_summary_holds_the_numbers():
    shown = explorer()
    assert shown.summary().splitlines() == [
        "10 bytes, 21.0 bits under every tokenization",
        "word: 4 pieces, perplexity 38.05 per piece, 2.100 bits per byte",
        "halves: 2 pieces, perplexity 1,448.15 per piece, 2.100 bits per byte",
        "word begins with: 'a' 1.00, ' café' 12.00, '\\n' 6.00, 'no' 2.00",
    ]
    shown.shown = 1
    assert shown.summary().splitlines()[-1] == "halves begins with: 'a caf' 6.75, 'é\\nno' 14.25"


def test_pictures_are_functions_of_the_data():
    def image(widget):
        return widget._repr_mimebundle_()[0]["image/png"]

    assert image(explorer()) == image(explorer())
    assert image(explorer()) != image(TokenExplorer(TEXT, BITS[::-1], CUTS))
    long = TokenExplorer(b"$x$ \x00\n" * 333, np.ones(1998), {"bytes": np.ones(1998, int)})
    assert image(long) == image(long)
    assert image(dial()) == image(dial())


def test_a_dear_piece_is_the_darkest_of_the_picture():
    def colors(bits):
        figure = TokenExplorer("ab", np.array([2.0, bits]), {"bytes": np.array([1, 1])}).picture()
        return [sum(patch.get_facecolor()[:3]) for patch in figure.axes[0].patches]

    for bits in (9.0, 16.0, 40.0):
        cheap, dear = colors(bits)
        assert dear < cheap


@pytest.mark.parametrize(
    "text, bits, cuts, message",
    [
        ("", [], {"x": []}, "1 to 2,000 bytes, got 0"),
        (b"x" * 2_001, np.zeros(2_001), {"x": [2_001]}, "got 2,001; pass a part"),
        ("abc", [1, 2], {"x": [3]}, r"shape \(3,\), got shape \(2,\)"),
        ("ab", [1, math.nan], {"x": [2]}, "finite"),
        ("ab", [1, 1], {}, "at least one tokenization"),
        ("ab", [1, 1], {"x": [1]}, "sum to 2"),
        (5, [1], {"x": [1]}, "str, bytes"),
    ],
)
def test_wrong_input(text, bits, cuts, message):
    with pytest.raises(InputError, match=message):
        TokenExplorer(text, np.array(bits), cuts)


@pytest.mark.parametrize("name, value", [("shown", 2), ("longest", 0), ("longest", 7), ("cursor", 4), ("cursor", -1)])
def test_wrong_settings(name, value):
    with pytest.raises(InputError, match=f"{name} must be from"):
        explorer().set_trait(name, value)


def dial():
    text = bytes(range(100, 113))
    return ClaimDial(
        [
            Claim("all of it", text, np.full(13, 2 * NATS_PER_BIT), text),
            Claim("half of it", text, np.full(5, 1 * NATS_PER_BIT), text[:7], text[:3]),
        ],
        "how much is told",
    )


def test_rows_of_claims():
    first, second = dial().rows
    assert first["perplexity"] == pytest.approx(4) and first["claimed"] == pytest.approx(2)
    assert first["honest"] == pytest.approx(2 + 7 / 13) == pytest.approx(sum(first["parts"].values()))
    assert second["perplexity"] == pytest.approx(2) and second["tokens"] == 5
    assert second["parts"]["repair"] > 0 and second["parts"]["dictionary"] > 0
    assert dial().summary().splitlines()[0] == "how much is told"
    assert dial().summary().splitlines()[2].split()[:6] == ["all", "of", "it", "13", "4.00", "2.000"]


def test_no_claims_and_no_such_claim_are_refused():
    with pytest.raises(InputError, match="at least one claim"):
        ClaimDial([], "x")
    with pytest.raises(InputError, match="from 0 to 1, got 2"):
        dial().shown = 2


EXPLORER = f"""import numpy as np
from shalab.widgets import ClaimDial, TokenExplorer
text = {TEXT!r}
cuts = {{"word": [1, 6, 1, 2], "halves": [5, 5]}}
shown = TokenExplorer(text, np.array({BITS.tolist()}), cuts)
shown"""

LONG = """from shalab.tokenization import word_lengths
long = ("The town of Reykjav\u00edk, founded in 1786, is home to [[Hallgr\u00edmskirkja]].\\n" * 6).encode()
words = word_lengths(long)
bits = np.abs(np.sin(np.arange(len(long)))) * 5
TokenExplorer(long, bits, {"word": words, "bytes": np.ones(len(long), int)})"""

DIAL = """from shalab.tokenization import Claim
data = bytes(range(100, 113))
whole = Claim("all of it", data, np.full(13, 1.386), data)
half = Claim("half of it", data, np.full(5, 0.693), data[:7], data[:3])
dial = ClaimDial([whole, half], "how much is told")
dial"""


def test_in_the_browser(lab):
    """Broken on purpose and seen to fail: pieces not drawn again after a cut; the dial left at the first claim."""
    with lab.notebook(EXPLORER, LONG, DIAL, name="tokens.ipynb", height=1600) as page:
        small, long, claims = (page.locator(".shalab").nth(i) for i in range(3))
        pieces = small.get_by_role("slider", name="piece of the text")
        small.get_by_text("piece 0, a: 1.00 bits for 1 byte, 1.00 bits per byte").wait_for()
        assert small.locator(".shalab-piece").all_inner_texts() == ["a\n1.0", "␣café\n12.0", "↵\n6.0", "no\n2.0"]
        pieces.press("ArrowRight")
        small.get_by_text("piece 1, ␣café: 12.00 bits for 6 bytes, 2.00 bits per byte").wait_for()
        pieces.press("End")
        pieces.press("ArrowRight")  # there is none after the last
        assert pieces.get_attribute("aria-valuetext").startswith("piece 3, no: 2.00 bits")
        small.locator(".shalab-piece").nth(2).click()
        assert pieces.get_attribute("aria-valuenow") == "2"
        assert small.get_by_role("row", name="▸ word 4 38.05 2.100").get_attribute("aria-current") == "true"
        small.get_by_label("cut into parts").press("Home")
        small.get_by_role("row", name="▸ word 10 4.29 2.100").wait_for()
        small.get_by_role("row", name="halves 10 4.29 2.100").wait_for()
        expect(small.locator(".shalab-piece").nth(5)).to_have_text("⟨C3⟩\n4.0", use_inner_text=True)
        small.get_by_label("cut into parts").press("ArrowRight")
        small.get_by_label("tokenization").select_option("halves")
        small.get_by_role("row", name="▸ halves 6").wait_for()
        lab.says(page, "print(shown.shown, shown.longest, shown.cursor)", "1 2 2")

        told = claims.locator(".shalab-told")
        assert "perplexity 4.00 over 13 tokens" in told.inner_text()
        claims.get_by_label("how much is told").press("ArrowRight")
        claims.get_by_text("perplexity 2.00 over 5 tokens").wait_for()
        parts = {
            row.locator("th").inner_text(): float(row.locator("td").first.inner_text())
            for row in claims.locator("tbody tr").all()
        }
        kernel = "print([round(x, 3) for x in [*dial.rows[dial.shown]['parts'].values(), dial.rows[1]['honest']]])"
        lab.says(page, kernel, list(parts.values()), eval)
        assert list(parts)[1:3] == ["dictionary", "repair"]
        assert claims.get_by_label("how much is told").get_attribute("aria-valuetext") == "half of it"
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), "tokens")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_small_windows_in_both_themes(lab, dark):
    with lab.notebook(EXPLORER, LONG, DIAL, name="tokens_small.ipynb", width=800, height=1400, dark=dark) as page:
        expect(page.locator(".shalab")).to_have_count(3)
        for widget in page.locator(".shalab").all():
            assert widget.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert violations(page, ".shalab") == []
        lab.picture(page.locator(".jp-Notebook"), f"tokens_small_{'dark' if dark else 'light'}")

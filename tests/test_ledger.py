"""The ledger finds every finished run, and says of each line how the text was read."""

import json

import pytest

from shalab.baselines import PUBLISHED
from shalab.ledger import COLD, LEARNS, READINGS, WARM, ledger, own_runs


def finished(folder, **changes):
    folder.mkdir(parents=True)
    result = {"valid_bpc": 1.5, "test_bpc": 1.75, "n_parameters": 1_847_552, "data": "enwik6", "seed": 0} | changes
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def test_every_finished_run_below_the_folder_is_found_and_nothing_else(tmp_path):
    finished(tmp_path / "b" / "deep")
    finished(tmp_path / "a", data="/somewhere/own.txt", n_parameters=53_000_000, test_bpc=2)
    finished(tmp_path / "no number", test_bpc=None)
    finished(tmp_path / "no score")
    (tmp_path / "no score" / "result.json").write_text('{"valid_bpc": 1', encoding="utf-8")
    (tmp_path / "unfinished").mkdir()
    a, b = own_runs(tmp_path)
    assert (a.name, a.corpus, a.valid, a.test, a.parameters, a.read) == ("a", "own.txt", 1.5, 2.0, "53M", WARM)
    assert (b.name, b.corpus, b.parameters, b.kind) == ("b/deep", "enwik6", "1.8M", "yours")
    assert own_runs(tmp_path / "nowhere") == []
    (alone,) = own_runs(tmp_path / "a")
    assert alone.name == "a"


@pytest.mark.parametrize(
    "content", ["[" * 99_999, '{"n_parameters": 1' + "0" * 400, '{"test_bpc": NaN', '{"valid_bpc": 1e999']
)
def test_a_result_that_no_run_writes_is_left_out(tmp_path, content):
    finished(tmp_path / "a")
    rest = {"valid_bpc": 1, "test_bpc": 2, "n_parameters": 3, "data": "x"}
    rest = {name: value for name, value in rest.items() if name not in content}
    (tmp_path / "a" / "result.json").write_text(f"{content}, {json.dumps(rest)[1:]}", encoding="utf-8")
    assert own_runs(tmp_path) == []


def test_the_ledger_has_the_paper_its_reproductions_what_came_later_and_compressors(tmp_path):
    finished(tmp_path / "mine", data="enwik8", test_bpc=1.08)
    book = ledger(tmp_path, {"enwik6": {"gzip -9": (2.59, 3.22), "zpaq -m5": (1.5, 2.1)}})
    assert book.corpora() == ["enwik8", "enwik6", "enwik8-standin"]
    enwik8 = {entry.name: entry for entry in book.of("enwik8")}
    assert set(enwik8) > {name for name, *_ in PUBLISHED} | {"mine"}
    assert [entry.test for entry in book.of("enwik8")] == sorted((e.test for e in enwik8.values()), reverse=True)
    for name, entry in enwik8.items():
        assert (entry.read == COLD) == ("Merity 2019" in name or "(a)" in name)
        assert (entry.read == LEARNS) == ("learning while tested" in name)
    enwik6 = {entry.name: (entry.test, entry.read) for entry in book.of("enwik6")}
    assert enwik6["gzip -9"] == (3.22, LEARNS) and enwik6["the trained model of this course"][1] == WARM
    assert enwik6["zpaq -m5"] == (2.1, LEARNS)  # what was measured here counts
    standin = {entry.name: (entry.valid, entry.test) for entry in book.of("enwik8-standin")}
    recorded, ppmd = standin["the recorded run of preset overnight"], standin["PPMd"]
    assert ppmd == (1.374, 1.434) and recorded == pytest.approx((1.3723, 1.4668), abs=1e-4)
    assert standin["zpaq -m5"] == (1.2477, 1.3033)
    assert set(entry.read for entry in book.entries) <= set(READINGS)


@pytest.mark.parametrize("form", ["text/plain", "text/html"])
def test_it_is_read_as_text_and_as_html_and_says_what_was_not_run(tmp_path, form):
    finished(tmp_path / "<mine>")
    said = ledger(tmp_path)._repr_mimebundle_()[form]
    assert ("<mine>" if form == "text/plain" else "&lt;mine&gt; (yours)") in said and "<mine> (yours)" not in said
    assert "no complete run on enwik8" in said and "1.750" in said and "1.076" in said
    assert "how it was read" in said and "issue 17" in said

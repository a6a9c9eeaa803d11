import hashlib
import http.server
import io
import os
import threading
import zipfile

import numpy as np
import pytest

from shalab import InputError, corpus
from shalab.cli import main
from shalab.corpus import SOURCES, Source, assets_dir, fetch, load_corpus
from shalab.presets import PRESETS, Budget
from shalab.run import Run

PARTS = {"train": "b0acc815", "valid": "3d922506", "test": "6a4f9b33"}


def test_embedded_enwik6_is_the_real_one():
    enwik6 = load_corpus("enwik6")
    assert (len(enwik6), enwik6.sha256) == (SOURCES["enwik6"].n_bytes, SOURCES["enwik6"].sha256)
    assert len(np.unique(enwik6.data)) == 195
    for name, prefix in PARTS.items():
        assert hashlib.sha256(enwik6.split(name).tobytes()).hexdigest().startswith(prefix)


def test_enwik8_splits_as_published(monkeypatch):
    bounds = corpus.Corpus("enwik8", np.broadcast_to(np.uint8(0), 100_000_000)).bounds
    assert bounds == {
        "train": (0, 90_000_000),
        "valid": (90_000_000, 95_000_000),
        "test": (95_000_000, 100_000_000),
    }


def test_own_file_is_mapped_not_read(tmp_path):
    (tmp_path / "own.bin").write_bytes(bytes(range(251)) * 3)
    own = load_corpus(str(tmp_path / "own.bin"))
    assert isinstance(own.data, np.memmap) and len(own) == 753
    assert np.concatenate([own.split(name) for name in PARTS]).tobytes() == bytes(range(251)) * 3


@pytest.mark.parametrize(
    "size, message",
    [(None, "no file at"), (0, "is empty"), (39, "has 39 bytes; a file needs at least 40")],
)
def test_bad_files(tmp_path, size, message):
    if size is not None:
        (tmp_path / "own").write_bytes(b"x" * size)
    with pytest.raises(InputError, match=message):
        load_corpus(str(tmp_path / "own"))


def test_assets_say_where_they_come_from():
    assert SOURCES["enwik6"].sha256 in (assets_dir() / "README.md").read_text()


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves one archive with ranges; breaks off each reply after `self.server.budget` bytes."""

    def do_GET(self):
        archive, server = self.server.archive, self.server
        server.requests.append(self.headers.get("Range"))
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.ranges else 0
        if begin >= len(archive):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(archive) - begin))
        self.end_headers()
        self.wfile.write(archive[begin:][: server.budget])

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """A corpus "enwik8" of 300,007 bytes, with an enwik7 of 100,003, behind a dead mirror and a live one."""
    content = np.random.default_rng(0).bytes(300_007)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", content)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.archive, server.budget, server.ranges, server.requests = packed.getvalue(), None, True, []
    server.content = content
    threading.Thread(target=server.serve_forever, daemon=True).start()
    live = f"http://127.0.0.1:{server.server_port}/enwik8.zip"
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(SOURCES, "enwik8", Source(len(content), digest, ("http://127.0.0.1:9/enwik8.zip", live)))
    prefix = hashlib.sha256(content[:100_003]).hexdigest()
    monkeypatch.setitem(SOURCES, "enwik7", Source(100_003, prefix, prefix_of="enwik8"))
    yield server
    server.shutdown()
    server.server_close()


def test_download_resumes_where_it_broke_off(mirror, tmp_path, capsys):
    mirror.budget = 100_000
    seen = []
    assert main(["data", "enwik8"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "no mirror delivered" in message and "ended after 100,000 of" in message and "run the command again" in message
    )
    mirror.budget = None
    path = fetch("enwik8", lambda done, total: seen.append((done, total)))
    assert mirror.requests == [None, "bytes=100000-"]
    assert seen[-1] == (len(mirror.archive), len(mirror.archive)) and seen[0][0] > 100_000
    assert path.read_bytes() == mirror.content
    assert sorted(os.listdir(path.parent)) == ["enwik8"]


def test_verified_file_is_never_fetched_again(mirror):
    fetch("enwik7")
    assert len(mirror.requests) == 1
    assert fetch("enwik7") == fetch("enwik8") and len(mirror.requests) == 1
    assert load_corpus("enwik7").data.tobytes() == mirror.content[:100_003]


def test_mirror_without_ranges_starts_over(mirror):
    mirror.budget = 100_000
    with pytest.raises(InputError):
        fetch("enwik8")
    mirror.budget, mirror.ranges = None, False
    assert fetch("enwik8").read_bytes() == mirror.content


def test_complete_archive_left_by_a_crash_is_used(mirror, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "enwik8.zip.part").write_bytes(mirror.archive)
    assert fetch("enwik8").read_bytes() == mirror.content


@pytest.mark.parametrize("damage", ["checksum", "garbage", "size"])
def test_wrong_content_never_becomes_a_corpus(mirror, tmp_path, monkeypatch, capsys, damage):
    good = SOURCES["enwik8"]
    if damage == "checksum":
        monkeypatch.setitem(SOURCES, "enwik8", Source(good.n_bytes, "0" * 64, good.mirrors))
    elif damage == "size":
        monkeypatch.setitem(SOURCES, "enwik8", Source(good.n_bytes + 1, good.sha256, good.mirrors))
    else:
        mirror.archive = mirror.archive[:1000] + b"\xff" * 1000 + mirror.archive[2000:]
    assert main(["data", "enwik8"]) == 2
    error = capsys.readouterr().err
    assert "removed" in error and "run the command again" in error and "Traceback" not in error
    assert os.listdir(tmp_path / "cache") == []
    with pytest.raises(InputError, match="fetch it with `shalab data enwik8`"):
        load_corpus("enwik8")


def test_damaged_cache_is_noticed(mirror):
    path = fetch("enwik8")
    content = bytearray(path.read_bytes())
    content[12_345] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256 .* expected .* remove it and fetch it again"):
        load_corpus("enwik8")
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="300,006 bytes, expected 300,007"):
        load_corpus("enwik8")


def test_unknown_name():
    with pytest.raises(InputError, match="no corpus is called 'text8'; there are enwik6, enwik7, enwik8, enwik9"):
        fetch("text8")


def test_the_whole_road_of_a_downloaded_corpus(mirror, capsys):
    """Broken download, resumed, verified, trained on, left early, resumed, scored: the full-size road in small."""
    mirror.budget = 100_000
    assert main(["data", "enwik8"]) == 2
    mirror.budget = None
    assert main(["data", "enwik8"]) == 0
    run = Run.create("run", "tiny", PRESETS["tiny"], "enwik8", budget=Budget(steps=9))
    for event in run.events():
        if event.step == 4:
            break
    assert main(["train", "--resume", "--out", "run", "--data", "enwik8"]) == 0
    assert main(["eval", "run", "--split", "valid", "--window", "64"]) == 0
    assert "enwik8 valid: " in capsys.readouterr().out.splitlines()[-1]


def test_a_folder_is_its_files_in_order(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    for name, content in (("c.txt", b"c" * 17), ("b/z.txt", b"z" * 13), ("a.txt", b"a" * 31)):
        (folder / name).write_bytes(content)
    assert bytes(load_corpus(str(folder)).data) == b"a" * 31 + b"z" * 13 + b"c" * 17
    (folder / "c.txt").write_bytes(b"d" * 19)
    assert bytes(load_corpus(str(folder)).data) == b"a" * 31 + b"z" * 13 + b"d" * 19

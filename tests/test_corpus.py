import hashlib
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shalab import InputError, corpus
from shalab.bundled import assets_dir
from shalab.cli import main
from shalab.corpus import SOURCES, load_corpus
from shalab.terminal import caution

PARTS = {"train": "b0acc815", "valid": "3d922506", "test": "6a4f9b33"}


def test_embedded_enwik6_is_the_real_one():
    enwik6 = load_corpus("enwik6")
    assert (len(enwik6), enwik6.sha256) == (SOURCES["enwik6"].n_bytes, SOURCES["enwik6"].sha256)
    assert len(np.unique(enwik6.data)) == 195
    for name, prefix in PARTS.items():
        assert hashlib.sha256(enwik6.split(name).tobytes()).hexdigest().startswith(prefix)


def test_enwik8_splits_as_published():
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
    [(None, "no file at"), (0, "own is empty"), (39, "has 39 bytes; a corpus needs at least 40")],
)
def test_bad_files(tmp_path, size, message):
    if size is not None:
        (tmp_path / "own").write_bytes(b"x" * size)
    with pytest.raises(InputError, match=message):
        load_corpus(str(tmp_path / "own"))


def test_assets_say_where_they_come_from():
    assert SOURCES["enwik6"].sha256 in (assets_dir() / "README.md").read_text(encoding="utf-8")


@contextmanager
def small_disk(n_bytes):
    """Within, the system refuses to let any file grow beyond `n_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def texts(tmp_path):
    """A folder of 61 bytes in three files."""
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    for name, content in (("c.txt", b"c" * 17), ("b/z.txt", b"z" * 13), ("a.txt", b"a" * 31)):
        (folder / name).write_bytes(content)
    return folder


def read(folder):
    return load_corpus(str(folder)).data.tobytes()


def test_a_folder_is_its_files_in_order(texts):
    assert read(texts) == b"a" * 31 + b"z" * 13 + b"c" * 17
    assert str(load_corpus("texts")) == "texts (61 bytes in 3 files)"


def test_an_edit_is_seen_though_size_and_time_stay(texts):
    before = (texts / "c.txt").stat()
    (texts / "c.txt").write_bytes(b"d" * 17)
    os.utime(texts / "c.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(texts) == b"a" * 31 + b"z" * 13 + b"d" * 17


def test_reading_a_folder_leaves_nothing_in_the_cache(texts, tmp_path):
    opened = []
    for letter in b"defg":
        (texts / "c.txt").write_bytes(bytes([letter]) * 17)
        opened.append(load_corpus(str(texts)))
        assert os.listdir(tmp_path / "cache") == []
    assert [bytes(each.data[-17:]) for each in opened] == [bytes([letter]) * 17 for letter in b"defg"]


def test_hidden_files_and_folders_are_left_out(texts):
    before = read(texts)
    for hidden in (".DS_Store", "b/.z.swp", ".git/objects/pack", "b/.cache/x"):
        (texts / hidden).parent.mkdir(parents=True, exist_ok=True)
        (texts / hidden).write_bytes(b"hidden" * 99)
    assert read(texts) == before
    texts.rename(texts.with_name(".texts"))  # only what is below the folder counts
    assert read(texts.with_name(".texts")) == before


def test_what_is_no_file_is_left_out_and_never_waited_for(texts):
    before = read(texts)
    os.mkfifo(texts / "pipe")
    (texts / "b" / "up").symlink_to("..")
    assert read(texts) == before
    (texts / "linked").symlink_to("a.txt")
    assert read(texts) == before + b"a" * 31


def test_a_link_that_leads_nowhere_is_named(texts):
    (texts / "b" / "gone").symlink_to("absent")
    with pytest.raises(InputError, match=r"cannot read \S*/b/gone \(No such file"):
        read(texts)
    (texts / "b" / "gone").unlink()
    (texts / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=r"cannot read \S*/loop \(Too many levels"):
        read(texts)


def refusing(name, real):
    """`real` for every path but the one called `name`; tests may run as root, whom the system refuses nothing."""

    def call(path, *arguments, **options):
        if os.path.basename(path) == name:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    return call


@pytest.mark.parametrize("owner, call, name", [(Path, "open", "z.txt"), (os, "scandir", "b"), (Path, "stat", "a.txt")])
def test_what_cannot_be_read_in_a_folder_is_named(texts, monkeypatch, capsys, owner, call, name):
    monkeypatch.setattr(owner, call, refusing(name, getattr(owner, call)))
    assert main(["train", "--data", "texts", "--steps", "1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{name} (Permission denied)" in lines[0] and "cannot read texts/" in lines[0]


def test_a_folder_that_vanishes_is_named(texts, monkeypatch):
    (texts / "a.txt").unlink()
    walk = os.walk

    def vanishing(*arguments, **options):
        found = list(walk(*arguments, **options))
        shutil.rmtree(texts)
        return found

    monkeypatch.setattr(os, "walk", vanishing)
    with pytest.raises(InputError, match="No such file"):
        read(texts)


@pytest.mark.parametrize("files, message", [((), "empty holds no file to read"), (("a", "b"), "empty is empty")])
def test_an_empty_folder_is_called_by_its_path(tmp_path, files, message):
    (tmp_path / "empty").mkdir()
    for name in files:
        (tmp_path / "empty" / name).touch()
    with pytest.raises(InputError, match=message):
        load_corpus("empty")


def test_a_folder_without_a_name_gets_its_real_one(texts, monkeypatch):
    monkeypatch.chdir(texts / "b")
    assert [load_corpus(path).name for path in ("..", "../", str(texts))] == ["texts"] * 3
    monkeypatch.chdir(texts)
    assert [load_corpus(path).name for path in (".", "b/..")] == ["texts"] * 2
    with pytest.raises(InputError, match="no file at"):
        load_corpus("")


def test_a_full_disk_is_said_and_leaves_nothing_behind(tmp_path, capsys):
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "file").write_bytes(bytes(300_000))
    with small_disk(100_000):
        assert main(["plan", "--data", "big"]) == 2
    what = f"cannot write {tmp_path / 'cache'} (File too large)"
    assert capsys.readouterr().err == f"shalab: {what}: make room, or name another folder in $SHALAB_CACHE\n"
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_named(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("SHALAB_CACHE", str(texts / "a.txt" / "cache"))
    with pytest.raises(InputError, match=r"cannot write \S*a.txt\S* \(Not a directory\)"):
        read(texts)


def test_a_user_without_a_home_is_told_to_name_a_cache(texts, monkeypatch, capsys):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SHALAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(corpus.Path, "home", nobody)
    assert main(["plan", "--preset", "tiny", "--data", str(texts)]) == 2
    assert "no home folder to keep files in: name a folder in $SHALAB_CACHE" in capsys.readouterr().err


def odd_paths(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"x" * 99)


@pytest.mark.parametrize(
    "path, message",
    [
        ("/dev/zero", "/dev/zero is a device or a pipe; give a file or a folder"),
        ("pipe", "pipe is a device or a pipe"),
        ("loop", "cannot read loop (Too many levels of symbolic links)"),
        ("file/below", "cannot read file/below (Not a directory)"),
        ("x" * 999, "(File name too long)"),
    ],
)
def test_odd_paths_get_one_sentence(tmp_path, capsys, path, message):
    odd_paths(tmp_path)
    assert main(["plan", "--data", path]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x" * 99)
    monkeypatch.setattr(corpus, "open", refusing("file", open), raising=False)
    with pytest.raises(InputError, match=r"cannot read file \(Permission denied\)"):
        load_corpus("file")


def test_a_damaged_enwik6_is_noticed(tmp_path, monkeypatch):
    packed = bytearray((assets_dir() / "enwik6.xz").read_bytes())
    packed[len(packed) // 2] ^= 1
    (tmp_path / "enwik6.xz").write_bytes(packed)
    monkeypatch.setattr(corpus, "assets_dir", lambda: tmp_path)
    with pytest.raises(InputError, match="enwik6.xz is damaged .* install shalab again"):
        load_corpus("enwik6")


def test_a_training_says_first_what_it_reads_and_when_its_scores_will_say_little(tmp_path, capsys):
    (tmp_path / "short").mkdir()
    for name, size in (("a", 101), ("b", 99)):
        (tmp_path / "short" / name).write_bytes(bytes(range(size)))
    assert main(["train", "--preset", "tiny", "--data", "short", "--steps", "1", "--batch-size", "2"]) == 0
    out = capsys.readouterr().out
    assert "tiny on short (200 bytes in 2 files), " in out.splitlines()[0]
    assert out.count("caution: valid has only 10 bytes and test 10: their scores say little") == 1


def test_ten_thousand_bytes_are_enough_to_judge_by():
    assert caution(corpus.Corpus("long", np.zeros(200_000, np.uint8))) == caution(load_corpus("enwik6")) == ""
    assert "valid has only 9,999 bytes" in caution(corpus.Corpus("less", np.zeros(199_979, np.uint8)))

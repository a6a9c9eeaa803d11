"""Whatever a mirror answers, whenever the process dies: a corpus appears whole and verified, or not at all."""

import hashlib
import http.server
import io
import os
import signal
import struct
import threading
import zipfile

import numpy as np
import pytest
from test_corpus import small_disk
from waiting import WAIT_S

from shalab import InputError, download
from shalab.cli import main
from shalab.corpus import SOURCES, Source, load_corpus
from shalab.download import MIRRORS, OVERLAP, fetch
from shalab.presets import PRESETS, Budget
from shalab.run import Run

CONTENT = np.random.default_rng(0).integers(0, 16, 300_007, np.uint8).tobytes()  # half of it is compressed away
KEPT = 20_011  # bytes that an earlier call left behind


def packed(content=CONTENT, name="enwik8", method=zipfile.ZIP_DEFLATED, **others):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for other, text in others.items():
            archive.writestr(other, text)
        archive.writestr(name, content)
    return file.getvalue()


ARCHIVE = packed()


class Mirror(http.server.BaseHTTPRequestHandler):
    """/good serves one archive with ranges, breaking off after `server.budget` bytes; /bad calls `server.bad`."""

    def do_GET(self):
        archive, server = self.server.archive, self.server
        if self.path == "/bad":
            return server.bad(self)
        server.requests.append(self.headers.get("Range"))
        begin = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.ranges else 0
        if begin >= len(archive):
            return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(archive) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(archive) - 1}/{len(archive)}")
        self.end_headers()
        self.wfile.write(archive[begin:][: server.budget])

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """A corpus "enwik8" of 300,007 bytes, with an enwik7 of 100,003, behind a dead mirror and a live one."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.archive, server.budget, server.ranges, server.requests = ARCHIVE, None, True, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    expect(monkeypatch, "http://127.0.0.1:9/enwik8.zip", f"{server.url}/good")
    prefix = hashlib.sha256(CONTENT[:100_003]).hexdigest()
    monkeypatch.setitem(SOURCES, "enwik7", Source(100_003, prefix, prefix_of="enwik8"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def expect(monkeypatch, *mirrors):
    monkeypatch.setitem(SOURCES, "enwik8", Source(len(CONTENT), hashlib.sha256(CONTENT).hexdigest()))
    monkeypatch.setitem(MIRRORS, "enwik8", mirrors)


def left(cache):
    """What stands in the cache, but for the lock, which is empty and stays."""
    return {path.name: path.read_bytes() for path in cache.iterdir() if path.suffix != ".lock"}


def test_mirrors_are_asked_by_https_first():
    for mirrors in MIRRORS.values():
        assert sorted(mirrors, key=lambda url: not url.startswith("https:")) == list(mirrors)
        assert mirrors[0].startswith("https:")


def test_download_resumes_where_it_broke_off(mirror, cache, capsys):
    mirror.budget = 100_000
    seen = []
    assert main(["data", "enwik8"]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    for part in (
        "no mirror delivered",
        "ConnectionRefused",
        "ended after 100,000 of",
        "run the command again to go on",
    ):
        assert part in message
    assert left(cache) == {"enwik8.zip.part": ARCHIVE[:100_000]}
    mirror.budget = None
    assert fetch("enwik8", lambda done, total: seen.append((done, total))) == cache / "enwik8"
    assert mirror.requests == [None, f"bytes={100_000 - OVERLAP}-"]
    assert seen[-1] == (len(ARCHIVE), len(ARCHIVE)) and seen[0][0] >= 100_000
    assert left(cache) == {"enwik8": CONTENT}


def test_verified_file_is_never_fetched_again(mirror):
    fetch("enwik7")
    assert len(mirror.requests) == 1
    assert fetch("enwik7") == fetch("enwik8") and len(mirror.requests) == 1
    assert load_corpus("enwik7").data.tobytes() == CONTENT[:100_003]


def test_a_mirror_without_ranges_loses_nothing_that_was_kept(mirror, cache):
    mirror.budget = 100_000
    with pytest.raises(InputError):
        fetch("enwik8")
    mirror.budget, mirror.ranges = 50_000, False
    with pytest.raises(InputError, match="ended after 50,000 of"):
        fetch("enwik8")
    assert left(cache) == {"enwik8.zip.part": ARCHIVE[:100_000]}
    mirror.budget = None
    assert fetch("enwik8").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "kept",
    [ARCHIVE, ARCHIVE + b"more" * 99_999, ARCHIVE[:90_000] + bytes(10_000), bytes(50_000), b"<html>" * 9999, b"PK"],
    ids=["complete", "too long", "zeros at its end", "zeros", "a web page", "two bytes"],
)
def test_whatever_an_earlier_call_left_is_completed(mirror, cache, kept):
    (cache / "enwik8.zip.part").write_bytes(kept)
    assert fetch("enwik8").read_bytes() == CONTENT
    assert left(cache) == {"enwik8": CONTENT}


def answer(status="200 OK", body=b"", **headers):
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    raw = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
    return lambda handler: handler.wfile.write(raw)


def stalled(handler):
    answer(Content_Length=len(ARCHIVE), body=ARCHIVE[:7])(handler)
    handler.server.released.wait(WAIT_S)


def endless(**headers):
    """A flood that ends when the other side hangs up, or after 100 MB, which nobody should take."""

    def flood(handler):
        handler.server.hung_up = threading.Event()
        answer(**headers, body=b"PK\3\4")(handler)
        try:
            for _ in range(100):
                handler.wfile.write(bytes(1_000_000))
        except OSError:
            handler.server.hung_up.set()

    return flood


PAGE, WHOLE, SIZE = b"<html>please log in</html>", f"0-{len(ARCHIVE) - 1}/{len(ARCHIVE)}", len(ARCHIVE)
REST = f"bytes {KEPT - OVERLAP}-{SIZE - 1}/{SIZE}"
NO_ARCHIVES = {
    "a web page": (answer(body=PAGE, Content_Type="text/html", Content_Length=len(PAGE)), "sent a web page"),
    "a web page of no length": (answer(body=PAGE, Content_Type="text/html; charset=x"), "sent a web page"),
    "a web page as the rest": (
        answer("206 Part", PAGE * 999, Content_Type="text/html", Content_Range=REST),
        "web page",
    ),
    "zeros as the rest": (answer("206 Part", bytes(SIZE), Content_Range=REST), "something else"),
    "another part": (answer("206 Part", ARCHIVE[5:], Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}"), "something else"),
    "a place that lies": (answer("206 Part", ARCHIVE, Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}"), "something else"),
    "a range in words": (answer("206 Part", ARCHIVE[5:], Content_Range="all of it"), "something else"),
    "no range": (answer("206 Part", ARCHIVE[5:]), "something else"),
    "a beginning beyond the end": (answer("206 Part", ARCHIVE[5:], Content_Range="bytes 9-9/3"), "something else"),
    "a total below the place": (answer("206 Part", ARCHIVE, Content_Range="bytes 0-9/0"), "gives 0 as"),
    "no length": (answer(body=ARCHIVE), "gives nothing as its archive's length"),
    "a length in words": (answer(body=ARCHIVE, Content_Length="abc"), "gives abc as"),
    "a negative length": (answer(body=ARCHIVE, Content_Length="-5"), "gives -5 as"),
    "a length of 9,999 digits": (answer(body=ARCHIVE, Content_Length="9" * 9999), "ValueError"),
    "too large a length": (answer(body=ARCHIVE, Content_Length=10**12), "expected up to 1,348,583"),
    "a flood of no length": (endless(), "gives nothing as"),
    "an empty body": (answer(Content_Length=SIZE), "something else"),
    "nothing": (lambda handler: None, "RemoteDisconnected"),
    "garbage": (lambda handler: handler.wfile.write(b"\x1b[2J\xff" * 999 + b"\r\n"), "BadStatusLine: \\x1b"),
    "a headline without an end": (answer("200 OK", X="y" * 99_999), "LineTooLong"),
    "a thousand headlines": (answer(**{f"X{i}": "y" for i in range(1000)}), "HTTPException"),
    "a hang": (stalled, "TimeoutError"),
    "an error": (answer("503 Busy"), "answered with HTTP status 503"),
    "nothing left": (answer("416 Nothing left"), "answered with HTTP status 416"),
    "a circle": (answer("302 Found", Location="/bad"), "answered with HTTP status 302"),
    "a file of this machine": (answer("302 Found", Location="file:///etc/passwd"), "answered with HTTP status 302"),
    "a place that is none": (answer("302 Found", Location="http://[x"), "ValueError"),
    "half a chunk": (answer(body=b"zz\r\n" + ARCHIVE, Transfer_Encoding="chunked"), "IncompleteRead"),
}


@pytest.mark.parametrize("kept", [0, KEPT])
@pytest.mark.parametrize("case", NO_ARCHIVES)
def test_what_is_no_archive_is_passed_over_and_the_kept_part_untouched(mirror, cache, monkeypatch, capsys, case, kept):
    mirror.bad, message = NO_ARCHIVES[case]
    mirror.released = threading.Event()
    if case == "a hang":
        monkeypatch.setattr(download, "TIMEOUT_S", 1)
    before = {"enwik8.zip.part": ARCHIVE[:kept]} if kept else {}
    for name, content in before.items():
        (cache / name).write_bytes(content)
    expect(monkeypatch, f"{mirror.url}/bad")
    assert main(["data", "enwik8"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("shalab: no mirror delivered enwik8.zip (") and message in error and "\x1b" not in error
    assert ("what arrived is kept" in error) == (kept > 0) and len(error) < 500
    assert left(cache) == before
    expect(monkeypatch, f"{mirror.url}/bad", f"{mirror.url}/good")
    assert fetch("enwik8").read_bytes() == CONTENT
    assert mirror.requests == [f"bytes={KEPT - OVERLAP}-" if kept else None]
    mirror.released.set()


def patched(archive, *changes):
    """An archive with bytes exchanged: (header, offset in it, struct format, value)."""
    archive = bytearray(archive)
    for header, offset, form, value in changes:
        struct.pack_into(form, archive, archive.index(header) + offset, value)
    return bytes(archive)


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"
ZEROS = bytes(50_000_000)
DAMAGED = {
    "another byte": (ARCHIVE[:70_000] + bytes([ARCHIVE[70_000] ^ 1]) + ARCHIVE[70_001:], ""),
    "another text": (packed(CONTENT[::-1]), "SHA-256"),
    "a byte too many": (packed(CONTENT + b"x"), "300,008 bytes, expected 300,007"),
    "a byte too few": (packed(CONTENT[:-1]), "300,006 bytes, expected 300,007"),
    "a bomb": (packed(ZEROS), "50,000,000 bytes, expected 300,007"),
    "a bomb that lies": (
        patched(packed(ZEROS), (LOCAL, 22, "<I", 300_007), (CENTRAL, 24, "<I", 300_007)), "Bad CRC-32"
    ),
    "a bomb of another kind": (packed(method=zipfile.ZIP_BZIP2), "any amount of memory"),
    "an unknown method": (patched(ARCHIVE, (LOCAL, 8, "<H", 77), (CENTRAL, 10, "<H", 77)), "memory"),
    "a password": (patched(ARCHIVE, (LOCAL, 6, "<H", 1), (CENTRAL, 8, "<H", 1)), "password"),
    "a directory far away": (patched(ARCHIVE, (b"PK\5\6", 16, "<I", 2**31)), ""),
    "another name": (packed(name="enwik9"), "no item named"),
    "a path upwards": (packed(name="../../enwik8"), "no item named"),
    "a path from the root": (packed(name="/enwik8"), "no item named"),
    "a beginning only": (LOCAL + b"x" * 100, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_archive_is_removed_and_the_next_mirror_asked(mirror, cache, tmp_path, monkeypatch, capsys, case):
    archive, message = DAMAGED[case]
    mirror.bad = answer(body=archive, Content_Length=len(archive))
    expect(monkeypatch, f"{mirror.url}/bad")
    with small_disk(1_000_000):  # nothing is written out beyond what was expected
        assert main(["data", "enwik8"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "sent a damaged archive, which was removed (" in error and message in error
    assert left(cache) == {} and os.listdir(tmp_path) == ["cache"]
    with pytest.raises(InputError, match="fetch it with `shalab data enwik8`"):
        load_corpus("enwik8")
    expect(monkeypatch, f"{mirror.url}/bad", f"{mirror.url}/good")
    assert fetch("enwik8").read_bytes() == CONTENT
    assert mirror.requests == [None] and left(cache) == {"enwik8": CONTENT}


def test_only_the_member_of_the_right_name_is_read(mirror, cache, tmp_path):
    mirror.archive = packed(**{"../up": "x", "/root": "x", "enwik8/below": "x"})
    assert fetch("enwik8").read_bytes() == CONTENT
    assert left(cache) == {"enwik8": CONTENT} and os.listdir(tmp_path) == ["cache"]


@pytest.mark.parametrize("extent", [None, f"bytes {WHOLE}", "bytes 0-9/10"])
def test_a_flood_is_read_no_further_than_declared(mirror, cache, monkeypatch, extent):
    mirror.bad = endless(status="206 Part", Content_Range=extent) if extent else endless(Content_Length=SIZE)
    expect(monkeypatch, f"{mirror.url}/bad", f"{mirror.url}/good")
    with small_disk(1_000_000):
        assert fetch("enwik8").read_bytes() == CONTENT
    assert mirror.hung_up.wait(WAIT_S)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Moved", "308 Moved"])
def test_a_redirection_is_followed_without_reading_its_flood(mirror, monkeypatch, status):
    mirror.bad = endless(status=status, Location="/good")
    expect(monkeypatch, f"{mirror.url}/bad")
    assert fetch("enwik8").read_bytes() == CONTENT
    assert mirror.hung_up.wait(WAIT_S)


def test_a_part_kept_from_another_mirror_is_replaced_by_a_real_archive(mirror, cache, monkeypatch):
    other = packed(method=zipfile.ZIP_STORED)
    (cache / "enwik8.zip.part").write_bytes(other[:200_000])
    assert fetch("enwik8").read_bytes() == CONTENT
    assert mirror.requests == [f"bytes={200_000 - OVERLAP}-", None]


def test_nothing_of_another_archive_stays_behind_the_new_one(mirror, cache):
    (cache / "enwik8.zip.part").write_bytes(bytes(50_000))
    mirror.budget = 20_000
    with pytest.raises(InputError, match="ended after 20,000 of"):
        fetch("enwik8")
    assert left(cache) == {"enwik8.zip.part": ARCHIVE[:20_000]}


def test_a_damaged_corpus_is_noticed_and_fetched_again(mirror, cache):
    path = fetch("enwik8")
    for damaged in (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), CONTENT[:-1], b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="enwik8 is (damaged: .* fetch it again|empty)"):
            load_corpus("enwik8")
        assert fetch("enwik8").read_bytes() == CONTENT
    assert left(cache) == {"enwik8": CONTENT}


def test_unknown_name():
    with pytest.raises(InputError, match="no corpus is called 'text8'; there are enwik6, enwik7, enwik8, enwik9"):
        fetch("text8")


def test_a_full_disk_is_said_and_the_next_call_goes_on(mirror, cache, capsys):
    with small_disk(100_000):
        assert main(["data", "enwik8"]) == 2
    assert f"shalab: cannot write {cache / 'enwik8.zip.part'} (File too large)" in capsys.readouterr().err
    assert left(cache) == {"enwik8.zip.part": ARCHIVE[:100_000]}
    with small_disk(200_000):  # enough for the archive, not for what is in it
        assert main(["data", "enwik8"]) == 2
    assert f"shalab: cannot write {cache / 'enwik8.part'} (File too large)" in capsys.readouterr().err
    assert left(cache) == {"enwik8.zip.part": ARCHIVE}
    assert fetch("enwik8").read_bytes() == CONTENT


@pytest.mark.parametrize("refused", ["mkdir", "open"])
def test_a_cache_that_cannot_be_written_is_said(mirror, tmp_path, monkeypatch, capsys, refused):
    cache = tmp_path / "cache"
    if refused == "open":
        cache.mkdir()

    def refuse(path, *arguments, **options):
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, refused, refuse)
        assert main(["data", "enwik8"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"shalab: cannot write {cache}") and error.endswith("name another folder in $SHALAB_CACHE")


def test_two_at_once_do_not_meet(mirror, cache, monkeypatch):
    go_on = threading.Event()

    def slow(handler):
        answer(body=ARCHIVE[:50_000], Content_Length=SIZE)(handler)
        go_on.wait(WAIT_S)
        handler.wfile.write(ARCHIVE[50_000:])

    mirror.bad = slow
    expect(monkeypatch, f"{mirror.url}/bad")
    monkeypatch.setattr(download, "TIMEOUT_S", WAIT_S)
    started = threading.Event()
    first = threading.Thread(target=fetch, args=("enwik8", lambda done, total: started.set()))
    first.start()
    assert started.wait(WAIT_S)
    for name in ("enwik8", "enwik7"):
        with pytest.raises(InputError, match=f"another process is fetching enwik8 into {cache}: wait until it is done"):
            fetch(name)
    go_on.set()
    first.join()
    assert fetch("enwik8").read_bytes() == CONTENT


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def after(n, call):
    """`call` that ends the process instead when it is called for the n-th time."""
    count = iter(range(1, 1000))
    return lambda *arguments: die() if next(count) == n else call(*arguments)


def each_block(n, blocks):
    def iterate(*arguments):
        tick = after(n, lambda block: block)
        for block in blocks(*arguments):
            yield tick(block)

    return iterate


def replaced(*arguments):
    os.rename(*arguments)
    die()


DEATHS = {
    "before the first block": ("_answer", each_block(1, download._answer)),
    "after two blocks": ("_answer", each_block(3, download._answer)),
    "after nine blocks": ("_answer", each_block(10, download._answer)),
    "before unpacking": ("_content", die),
    "in the middle of unpacking": ("_content", each_block(9, download._content)),
    "before the renaming": ("os.replace", die),
    "after the renaming": ("os.replace", replaced),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_a_killed_process_leaves_nothing_half_done_under_the_corpus_name(mirror, cache, monkeypatch, moment):
    monkeypatch.setattr(download, "BLOCK", 10_007)
    name, death = DEATHS[moment]
    child = os.fork()
    if child == 0:
        try:
            with monkeypatch.context() as patch:
                patch.setattr(f"shalab.download.{name}", death)
                fetch("enwik8")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = left(cache)
    part = found.get("enwik8.zip.part", b"")
    assert ARCHIVE.startswith(part) and found.get("enwik8", CONTENT) == CONTENT
    assert ("enwik8" in found) == (moment == "after the renaming")
    mirror.requests.clear()
    assert fetch("enwik8").read_bytes() == CONTENT
    assert left(cache) == {"enwik8": CONTENT}
    if "enwik8" not in found and len(part) > OVERLAP:
        assert mirror.requests == [f"bytes={len(part) - OVERLAP}-"]


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

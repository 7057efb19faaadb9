"""Downloading archives from a server that breaks off, sends parts, or sends something else."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from test_files import BIG, SET, names_below, tar

from conftest import full_disk, refused
from cra_smra.data.archives import Archive
from cra_smra.data.fetch import download, fetch
from cra_smra.data.files import Official


@dataclass
class Site:
    """A server on this machine. ``ranges``: it sends parts; ``stop``: it hangs up after so many bytes of an answer."""

    data: bytes
    ranges: bool = True
    length: bool = True
    stop: int | None = None
    status: int = 200
    shift: int = 0
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site():
    it = Site(b"")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            it.asked.append(wanted)
            if it.status != 200:
                return self.send_error(it.status)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and it.ranges else 0
            if start and start >= len(it.data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(it.data)}")
                return self.end_headers()
            body = it.data[start:]
            self.send_response(206 if wanted and it.ranges else 200)
            if wanted and it.ranges:
                first = start + it.shift
                self.send_header("Content-Range", f"bytes {first}-{len(it.data) - 1}/{len(it.data)}")
            if it.length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: it.stop])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    it.url = f"http://127.0.0.1:{server.server_address[1]}/set.tar.gz"
    yield it
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def archive_bytes(tmp_path_factory) -> bytes:
    return tar(tmp_path_factory.mktemp("source") / "set.tar.gz", BIG, "SET/").read_bytes()


def official_at(site: Site, **known) -> Official:
    return replace(SET, archives=(Archive("set.tar.gz", site.url, **known),))


def test_fetch_downloads_unpacks_and_does_neither_twice(tmp_path, site, archive_bytes):
    site.data = archive_bytes
    official = official_at(site, size=len(archive_bytes), md5=hashlib.md5(archive_bytes).hexdigest())
    root = tmp_path / "a" / "b"
    assert fetch(root, official, progress=False) == root / "SET"
    assert names_below(root / "SET") == set(BIG) and sorted(os.listdir(root)) == ["SET", "set.tar.gz"]
    assert fetch(root, official, progress=False) == root / "SET" and site.asked == [None]
    (root / "set.tar.gz").unlink()
    assert fetch(root, official, progress=False) == root / "SET" and site.asked == [None]
    shutil.rmtree(root / "SET")
    fetch(root, official, progress=False)
    assert site.asked == [None, None]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_broken_download_goes_on_where_it_ended(tmp_path, site, archive_bytes, ranges, known):
    site.data, site.ranges, site.stop = archive_bytes, ranges, 20_000
    archive = Archive("set.tar.gz", site.url, size=len(archive_bytes) if known else None)
    path = tmp_path / "set.tar.gz"
    total = f"ended at 20,000 of {len(archive_bytes):,} bytes; run it again"
    refused(total, download, archive, path, False, error=RuntimeError)
    assert os.listdir(tmp_path) == ["set.tar.gz.part"]
    assert (tmp_path / "set.tar.gz.part").read_bytes() == archive_bytes[:20_000]
    site.stop = None
    download(archive, path, progress=False)
    assert site.asked == [None, "bytes=20000-"]
    assert path.read_bytes() == archive_bytes and os.listdir(tmp_path) == ["set.tar.gz"]


def test_a_disk_that_is_full_while_downloading_keeps_what_has_come(tmp_path, site, archive_bytes):
    site.data = archive_bytes
    archive, path = Archive("set.tar.gz", site.url), tmp_path / "set.tar.gz"
    with full_disk(20_000):
        text = "cannot be downloaded .*File too large.*what has come stays in .*part: run it again"
        refused(text, download, archive, path, False, error=RuntimeError)
    assert (tmp_path / "set.tar.gz.part").read_bytes() == archive_bytes[:20_000] and not path.exists()
    download(archive, path, progress=False)
    assert site.asked == [None, "bytes=20000-"] and path.read_bytes() == archive_bytes


def test_without_any_length_the_known_size_tells_that_the_connection_broke(tmp_path, site, archive_bytes):
    site.data, site.length, site.stop = archive_bytes, False, 100
    archive = Archive("set.tar.gz", site.url, size=len(archive_bytes))
    refused("ended at 100 of", download, archive, tmp_path / "set.tar.gz", False, error=RuntimeError)


def test_a_part_that_is_whole_is_taken(tmp_path, site, archive_bytes):
    site.data = archive_bytes
    (tmp_path / "set.tar.gz.part").write_bytes(archive_bytes)
    download(Archive("set.tar.gz", site.url), tmp_path / "set.tar.gz", progress=False)
    assert (tmp_path / "set.tar.gz").read_bytes() == archive_bytes and os.listdir(tmp_path) == ["set.tar.gz"]


def test_a_part_longer_than_the_archive_is_thrown_away(tmp_path, site, archive_bytes):
    site.data = archive_bytes
    (tmp_path / "set.tar.gz.part").write_bytes(archive_bytes + b"more")
    archive = Archive("set.tar.gz", site.url)
    refused("sent something else", download, archive, tmp_path / "set.tar.gz", False, error=RuntimeError)
    assert os.listdir(tmp_path) == []


def test_a_part_of_something_else_is_found_by_the_md5_sum(tmp_path, site, archive_bytes):
    site.data = archive_bytes
    (tmp_path / "set.tar.gz.part").write_bytes(b"x" * 500)
    archive = Archive("set.tar.gz", site.url, md5=hashlib.md5(archive_bytes).hexdigest())
    path = tmp_path / "set.tar.gz"
    refused("something else than the archive: it has the md5 sum", download, archive, path, False, error=RuntimeError)
    download(archive, path, progress=False)
    assert path.read_bytes() == archive_bytes


def test_a_server_that_sends_another_part_than_asked_for_is_refused(tmp_path, site, archive_bytes):
    site.data, site.shift = archive_bytes, 7
    (tmp_path / "set.tar.gz.part").write_bytes(archive_bytes[:500])
    archive = Archive("set.tar.gz", site.url)
    refused("another part than was asked for", download, archive, tmp_path / "set.tar.gz", False, error=RuntimeError)
    assert (tmp_path / "set.tar.gz.part").read_bytes() == archive_bytes[:500]


def test_a_page_instead_of_the_archive_is_not_kept(tmp_path, site):
    site.data = b"<!doctype html>" + b"<p>please sign in" * 9
    refused("it is a web page", fetch, tmp_path, official_at(site), False, error=RuntimeError)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_refusal_of_the_server_is_one_line(tmp_path, site, status):
    site.status = status
    refused(f"cannot be downloaded .*{status}", fetch, tmp_path, official_at(site), False, error=RuntimeError)
    assert os.listdir(tmp_path) == []


def test_a_dead_address_is_one_line(tmp_path):
    nobody = replace(SET, archives=(Archive("set.tar.gz", "http://127.0.0.1:9/set.tar.gz"),))
    refused("cannot be downloaded.*run it again", fetch, tmp_path, nobody, False, error=RuntimeError)
    refused("cannot be downloaded by a program: Get it from", fetch, tmp_path, SET, False)
    refused("cannot be downloaded by a program", fetch, tmp_path, replace(SET, archives=()), False)
    assert os.listdir(tmp_path) == []

"""Finding and unpacking archives, and reading lists: what is right, and every way it goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from conftest import refused, without_rights
from cra_smra.data.archives import Archive, unpack
from cra_smra.data.files import Official, locate, read_lines, read_mat, read_table

SET = Official(
    name="set",
    title="The Set",
    folder="SET",
    marks=("list.txt", "images"),
    archives=(Archive("set.tar.gz"),),
    source="Get it from example.org",
    classes=3,
    counts={"train": 5, "test": 4},
    traps={"lists/old.txt": "this is the set of another year"},
)
CONTENT = {"list.txt": b"1 a.jpg\n", "images/a.jpg": b"\xff\xd8pixels"}


def fill(folder: Path, *leave_out: str) -> Path:
    for name, content in CONTENT.items():
        if name not in leave_out:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def tar(path: Path, content: dict[str, bytes | tarfile.TarInfo], prefix: str = "") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in content.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                member = tarfile.TarInfo(prefix + name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, content: dict[str, bytes], prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(prefix + name, data)
    return path


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# finding


@pytest.mark.parametrize("place", ["", "SET", "SET/SET"])
def test_the_set_is_found_in_the_root_below_it_and_doubled(tmp_path, place):
    assert locate(tmp_path, SET) == tmp_path / place if fill(tmp_path / place) else None
    assert locate(str(tmp_path), SET) == tmp_path / place


def test_the_root_itself_comes_before_a_second_copy_in_it(tmp_path):
    fill(tmp_path / "SET"), fill(tmp_path)
    assert locate(tmp_path, SET) == tmp_path


def test_a_root_that_does_not_hold_the_set_is_answered_by_what_is_wrong(tmp_path):
    refused("The Set needs a root.*Get it from", locate, None, SET)
    refused("there is no folder .*nowhere", locate, tmp_path / "nowhere", SET)
    refused("the folder is empty", locate, tmp_path, SET)
    (tmp_path / "file").write_text("x")
    refused("file is a file", locate, tmp_path / "file", SET)
    refused("no list.txt in it, nor in SET", locate, tmp_path, SET)
    (tmp_path / "set.tar.gz.part").write_text("x")
    refused("set.tar.gz.part is a download that was not finished", locate, tmp_path, SET)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "old.txt").write_text("x")
    refused("this is the set of another year", locate, tmp_path, SET)


def test_of_an_incomplete_copy_the_first_absent_entry_is_named_and_where(tmp_path):
    fill(tmp_path / "SET", "images/a.jpg")
    assert "no images in SET" in refused("The Set", locate, tmp_path, SET)
    assert "no images in it" in refused("The Set", locate, tmp_path / "SET", SET)
    fill(tmp_path, "list.txt")
    (tmp_path / "SET" / "list.txt").unlink()
    assert "no list.txt in it." in refused("The Set", locate, tmp_path, SET)


def test_of_several_archives_the_absent_one_is_named(tmp_path):
    two = replace(SET, archives=(Archive("one.tar"), Archive("two.tar")))
    tar(tmp_path / "one.tar", {"list.txt": b"1 a"})
    refused("two.tar is not there", locate, tmp_path, two)


def test_check_counts_speaks_up_only_for_a_set_with_all_classes():
    SET.check_counts("train", 3, 5, Path("here"))
    SET.check_counts("train", 2, 1, Path("here"))
    refused("has 5 train images, here are 4", SET.check_counts, "train", 3, 4, Path("here"))


# unpacking


@pytest.mark.parametrize("prefix", ["", "./", "SET/", "./SET/"])
@pytest.mark.parametrize("name", ["set.tar", "set.tgz", "set.tar.gz", "set.zip"])
def test_an_archive_is_unpacked_with_or_without_its_own_folder(tmp_path, name, prefix):
    (zipped if name.endswith("zip") else tar)(tmp_path / name, CONTENT, prefix)
    folder = locate(tmp_path, replace(SET, archives=(Archive(name),)))
    assert folder == tmp_path / "SET" and names_below(folder) == set(CONTENT)
    assert {n: (folder / n).read_bytes() for n in CONTENT} == CONTENT
    assert sorted(os.listdir(tmp_path)) == ["SET", name]  # the archive stays, no draft does
    assert folder.stat().st_mode & 0o777 == 0o755
    assert locate(tmp_path, SET) == folder  # and is not unpacked a second time


def test_a_file_beside_the_folder_in_the_archive_does_no_harm(tmp_path):
    tar(tmp_path / "set.tar.gz", {"attributes.txt": b"x"} | {f"SET/{name}": data for name, data in CONTENT.items()})
    assert names_below(locate(tmp_path, SET)) == set(CONTENT)
    assert locate(tmp_path, SET) == tmp_path / "SET" / "SET"


def test_several_archives_are_unpacked_into_one_folder(tmp_path):
    two = replace(SET, archives=(Archive("one.tar"), Archive("two.tar")))
    tar(tmp_path / "one.tar", {"list.txt": CONTENT["list.txt"]})
    tar(tmp_path / "two.tar", {"images/a.jpg": CONTENT["images/a.jpg"]})
    assert names_below(locate(tmp_path, two)) == set(CONTENT)


def test_an_incomplete_folder_is_not_overwritten(tmp_path):
    fill(tmp_path / "SET", "images/a.jpg")
    tar(tmp_path / "set.tar.gz", CONTENT)
    refused("SET is incomplete: it lacks images; remove it", locate, tmp_path, SET)
    shutil.rmtree(tmp_path / "SET")
    assert locate(tmp_path, SET) == tmp_path / "SET"


def test_another_archive_under_the_right_name_is_refused(tmp_path):
    tar(tmp_path / "set.tar.gz", {"list.txt": b"1 a"})
    refused("the archives do not hold The Set: no images in them", locate, tmp_path, SET)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


HOSTILE = {
    "up": {"../evil.txt": b"x"},
    "deep": {"images/../../evil.txt": b"x"},
    "absolute": {"/tmp/evil.txt": b"x"},
    "link up": {"link": link("images/link", "../../evil.txt", tarfile.SYMTYPE)},
    "link absolute": {"link": link("link", "/etc/passwd", tarfile.SYMTYPE)},
    "hard link": {"link": link("link", "../evil.txt", tarfile.LNKTYPE)},
    "link as a folder": {"link": link("way", "..", tarfile.SYMTYPE), "way/evil.txt": b"x"},
    "device": {"node": link("null", "", tarfile.CHRTYPE)},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tar_that_reaches_outside_is_refused_and_leaves_nothing(tmp_path, kind):
    root = tmp_path / "root"
    root.mkdir()
    tar(root / "set.tar.gz", CONTENT | HOSTILE[kind])
    refused("is refused: its member .* points outside", locate, root, SET)
    assert os.listdir(root) == ["set.tar.gz"] and os.listdir(tmp_path) == ["root"]
    assert not Path("/tmp/evil.txt").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "images/../../evil.txt", "/tmp/evil.txt", r"..\evil.txt", r"\evil"])
def test_a_zip_that_reaches_outside_is_refused_and_leaves_nothing(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    zipped(root / "set.zip", CONTENT | {name: b"x"})
    refused("is refused: its member .* outside", locate, root, replace(SET, archives=(Archive("set.zip"),)))
    assert os.listdir(root) == ["set.zip"] and os.listdir(tmp_path) == ["root"]


BIG = CONTENT | {"images/b.bin": np.random.default_rng(0).bytes(60_000)}


@given(st.floats(0, 1), st.sampled_from(["set.tar", "set.tar.gz", "set.zip"]), st.booleans())
@example(0.0, "set.tar", True)
@example(0.0, "set.tar.gz", True)
@settings(max_examples=40, deadline=None)
def test_a_cut_or_changed_archive_is_refused_or_gives_the_right_files(share, name, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = (zipped if name.endswith("zip") else tar)(Path(folder) / name, BIG)
        data = bytearray(path.read_bytes())
        at = int(share * (len(data) - 1))
        if cut:
            del data[at:]
        else:
            data[at] ^= 0xFF
        path.write_bytes(data)
        official = replace(SET, archives=(Archive(name),))
        try:
            found = locate(folder, official)
        except ValueError as error:
            assert "\n" not in str(error) and sorted(os.listdir(folder)) in ([name], ["SET", name])
            assert str(path) in str(error) or "do not hold" in str(error)
        else:
            if name != "set.tar":  # which has no checksum of what is in it
                assert {n: (found / n).read_bytes() for n in names_below(found)} == BIG


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Sign in", b"\n  <HTML><body>", b"<?xml version='1.0'?>"])
def test_a_web_page_under_the_archive_s_name_is_called_one(tmp_path, page):
    (tmp_path / "set.tar.gz").write_bytes(page * 20)
    refused("is a web page saved under the archive's name: remove it", locate, tmp_path, SET)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty: remove it"),
    (b"just text\n" * 300, "is damaged or no archive"),
    (b"PK\x03\x04" + b"\0" * 300, "is damaged or no archive"),
])
@pytest.mark.parametrize("name", ["set.tar.gz", "set.zip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    refused(message, locate, tmp_path, replace(SET, archives=(Archive(name),)))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 99)])
def test_a_zip_of_a_kind_that_is_not_unpacked_is_refused(tmp_path, place, value):
    path = zipped(tmp_path / "set.zip", CONTENT)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + place] = value  # in the directory at the end: encrypted, a compression of the future
    data[place - 2 if place == 8 else 8] = value  # and in the head of the first member
    path.write_bytes(data)
    refused("is damaged or no archive", locate, tmp_path, replace(SET, archives=(Archive("set.zip"),)))


def test_a_gzip_whose_checksum_is_wrong_is_damaged_not_a_full_disk(tmp_path):
    path = tar(tmp_path / "set.tar.gz", BIG)
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum stands in the last eight bytes
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    refused("is damaged or no archive .CRC check failed", unpack, path, tmp_path / "out")


def test_size_and_md5_are_compared_with_the_known_ones(tmp_path):
    path = tar(tmp_path / "set.tar.gz", CONTENT)
    size, right = path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest()
    for archive, message in (
        (Archive("set.tar.gz", size=size + 1000), f"has {size:,} instead of {size + 1000:,} bytes"),
        (Archive("set.tar.gz", size=size - 1), f"has {size:,} instead of {size - 1:,} bytes"),
        (Archive("set.tar.gz", md5="0" * 32), f"has the md5 sum {right} instead of 0000"),
    ):
        assert message in refused("remove it and download", locate, tmp_path, replace(SET, archives=(archive,)))
        assert os.listdir(tmp_path) == ["set.tar.gz"]
    known = Archive("set.tar.gz", md5=right, size=size)
    assert locate(tmp_path, replace(SET, archives=(known,))) == tmp_path / "SET"


@pytest.mark.parametrize(("name", "module"), [("set.tar.gz", tarfile), ("set.zip", shutil)])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, name, module):
    (zipped if name.endswith("zip") else tar)(tmp_path / name, CONTENT)
    official, written = replace(SET, archives=(Archive(name),)), []
    copy = module.copyfileobj

    def full(source, target, *rest):
        if written:  # the second file does not fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(copy(source, target, *rest))

    with monkeypatch.context() as patch:
        patch.setattr(module, "copyfileobj", full)
        refused("cannot be unpacked.*No space left.*nothing of it", locate, tmp_path, official, error=RuntimeError)
    assert written and os.listdir(tmp_path) == [name]
    assert locate(tmp_path, official) == tmp_path / "SET"  # once there is room


def test_of_two_processes_that_unpack_the_same_the_slower_takes_what_the_faster_left(tmp_path, monkeypatch):
    tar(tmp_path / "set.tar.gz", CONTENT)
    copy = tarfile.copyfileobj

    def overtaken(*arguments):
        fill(tmp_path / "SET")
        copy(*arguments)

    monkeypatch.setattr(tarfile, "copyfileobj", overtaken)
    assert locate(tmp_path, SET) == tmp_path / "SET"
    assert sorted(os.listdir(tmp_path)) == ["SET", "set.tar.gz"] and names_below(tmp_path / "SET") == set(CONTENT)


def test_an_interrupted_unpacking_leaves_nothing(tmp_path, monkeypatch):
    tar(tmp_path / "set.tar.gz", CONTENT)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        locate(tmp_path, SET)
    assert os.listdir(tmp_path) == ["set.tar.gz"]


def test_a_root_that_may_not_be_read_is_one_line(open_folder):
    fill(open_folder / "SET")
    with without_rights(open_folder):
        refused("may not be read: its permissions forbid it", locate, open_folder, SET)
        refused("may not be read: its permissions forbid it", locate, open_folder / "SET", SET)
    with without_rights(open_folder / "SET"):
        refused("SET.* may not be read: its permissions forbid it", locate, open_folder, SET)
    with without_rights(open_folder / "SET" / "list.txt"):
        refused("list.txt may not be read", lambda: list(read_lines(open_folder / "SET" / "list.txt")))
        refused("list.txt may not be read", read_mat, open_folder / "SET" / "list.txt", "x")


def test_a_root_that_may_not_be_written_to_is_one_line(open_folder):
    tar(open_folder / "set.tar.gz", CONTENT)
    other = open_folder / "other"
    other.mkdir()
    open_folder.chmod(0o555)
    with without_rights(other):  # as nobody, who may read the root
        refused("cannot be unpacked.*Permission denied", locate, open_folder, SET, error=RuntimeError)
    open_folder.chmod(0o755)
    with without_rights(open_folder / "set.tar.gz"):
        refused("cannot be unpacked.*Permission denied", locate, open_folder, SET, error=RuntimeError)
    assert sorted(os.listdir(open_folder)) == ["other", "set.tar.gz"]


# lists

ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\n \t\r\n"])
WORDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=12)
TABLES = st.dictionaries(st.integers(-5, 10**9), st.lists(WORDS, min_size=1, max_size=3).map(" ".join), min_size=1)


@given(TABLES, ENDS, st.sampled_from([" ", "\t", "   "]), st.sampled_from([b"", b"\xef\xbb\xbf"]), st.randoms())
@settings(max_examples=60, deadline=None)
def test_a_table_is_read_with_any_line_ends_blank_lines_names_and_order(rows, end, space, mark, random):
    lines = [f"{number}{space}{text}" for number, text in rows.items()]
    random.shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.txt"
        path.write_bytes(mark + end.join([*lines, ""]).encode())
        assert read_table(path, str) == {number: (text,) for number, text in rows.items()}


def test_lines_have_the_numbers_an_editor_shows(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\n a b \r\n\r\n\tc\rd")
    assert list(read_lines(tmp_path / "list.txt")) == [(2, "a b"), (4, "c"), (5, "d")]


@pytest.mark.parametrize(("text", "message"), [
    (b"", "list.txt is empty"),
    (b" \n\t\n", "list.txt is empty"),
    (b"1 2 3\n4 5\n", r"line 2: '4 5' is not of the form 'id int float'"),
    (b"1 2 3\nx 5 6\n", r"line 2: 'x 5 6' is not of the form"),
    (b"1 2.5 3\n", "line 1"),
    (b"1 2 3\n\n1 2 3\n", "line 3: id 1 stands there twice"),
    (b"1 2 3 4\n", "line 1"),
    (b"1 2 \xff\n", "is not a text file: byte 4 is not UTF-8"),
])
def test_a_table_of_another_form_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_bytes(text)
    refused(message, read_table, tmp_path / "list.txt", int, float)


def test_lists_and_mat_files_that_are_missing_or_none(tmp_path):
    refused("no.txt is missing", read_table, tmp_path / "no.txt", str)
    (tmp_path / "folder").mkdir()
    refused("folder is a folder, not a list", read_table, tmp_path / "folder", str)
    refused("no.mat is missing", read_mat, tmp_path / "no.mat", "labels")
    refused("folder is missing", read_mat, tmp_path / "folder", "labels")
    savemat(tmp_path / "a.mat", {"labels": np.arange(3)})
    assert read_mat(tmp_path / "a.mat", "labels")["labels"].tolist() == [[0, 1, 2]]
    refused("has no variable 'file_list'", read_mat, tmp_path / "a.mat", "labels", "file_list")
    whole = (tmp_path / "a.mat").read_bytes()
    for damaged in (b"", b"<html>", whole[:60], whole[:-9], b"\0" * 200):
        (tmp_path / "b.mat").write_bytes(damaged)
        refused("b.mat (is not a MATLAB file|has no variable)", read_mat, tmp_path / "b.mat", "labels")

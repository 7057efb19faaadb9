"""Downloading the archives of a set."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from cra_smra.data.archives import CHUNK, Archive, verify, what_is_wrong
from cra_smra.data.files import Official, complete_folder, locate


def fetch(root: str | Path, official: Official, progress: bool = True) -> Path:
    """Download the archives of a set into ``root``, go on with what was begun, and unpack them; the set's folder.
    A set that is there already is not downloaded again.

    Raises ValueError where no address is alive, RuntimeError when a download fails.
    """
    dead = [archive.name for archive in official.archives if archive.url is None]
    if dead or not official.archives:
        raise ValueError(f"{official.title} cannot be downloaded by a program: {official.source}")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if found := complete_folder(root, official):
        return found
    for archive in official.archives:
        path = root / archive.name
        if not path.exists():
            download(archive, path, progress)
        verify(path, archive)
    return locate(root, official)


def download(archive: Archive, path: Path, progress: bool = True) -> None:
    """Download an archive to ``path``; what was received stays in ``path``.part, and the next call asks for the rest.

    Raises RuntimeError when the server cannot be reached, ends early, or sends something else than the archive.
    """
    from tqdm.auto import tqdm  # late: in a notebook without widgets the import itself warns

    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    hidden = {} if progress else {"disable": True}
    total = archive.size
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            resumed = answer.status == 206
            have = have if resumed else 0
            if resumed and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
                raise RuntimeError(f"{archive.url}: the server sends another part than was asked for; remove {part}")
            if (length := answer.headers.get("Content-Length")) is not None:
                total = have + int(length)
            with (
                open(part, "ab" if resumed else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=archive.name, **hidden) as bar,
            ):
                for piece in iter(lambda: answer.read(CHUNK), b""):
                    file.write(piece)
                    bar.update(len(piece))
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise RuntimeError(f"{archive.url} cannot be downloaded ({error}); try again, or get it by hand") from error
        length = (error.headers.get("Content-Range") or "").rpartition("/")[2]  # nothing is left to send
        total = int(length) if length.isdecimal() else total
    except (OSError, HTTPException) as error:
        raise RuntimeError(
            f"{archive.url} cannot be downloaded ({error}); what has come stays in {part}: run it again for the rest"
        ) from error
    # A connection that breaks is not an error to http.client when it is read piece by piece.
    size = part.stat().st_size
    if total is not None and size < total:
        raise RuntimeError(f"{archive.url}: the connection ended at {size:,} of {total:,} bytes; run it again")
    fault = what_is_wrong(part, archive)
    if fault is None and total is not None and size != total:
        fault = f"has {size:,} instead of {total:,} bytes"
    if fault:
        part.unlink()
        raise RuntimeError(f"{archive.url} sent something else than the archive: it {fault}; try again, or by hand")
    os.replace(part, path)

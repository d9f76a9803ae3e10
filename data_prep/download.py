"""Fetches BHSD's labelled volumes, label_192.zip, from where the authors publish them.

    python -m data_prep.download [--output data/raw] [--url https://a.mirror/label_192.zip]

Continues where an earlier attempt stopped, and checks the file's SHA-256 before it takes its name.
BHSD (Wu et al., MLMI 2023, arXiv:2308.11298) has its own terms: its dataset card says MIT, the
authors' repository says non-commercial and no derivatives. Check that your use agrees.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from mbh_jax import files
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path

URL = "https://huggingface.co/datasets/WuBiao/BHSD/resolve/main/label_192.zip"

SHA256 = "582bf184af993541a4958a4d209a6a44e3bbe702a5daefaf9fb1733a4e7a6e39"
"""Of label_192.zip."""

_NAME = "label_192.zip"
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_RETRY_WAIT_S = 2.0
_FRUITLESS_ATTEMPTS = 3
"""The download ends after this many attempts in a row without a new byte."""


class _BrokenOffError(Exception):
    """The connection ended before the file did; says why."""


class _Size(NamedTuple):
    """Where an answer's body starts in the file, and the bytes of the whole file if known."""

    start: int
    total: int | None


def download(url: str, target: Path, sha256: str) -> bool:
    """Fetches `url` to `target`, by way of `<target>.part`, which a later call continues.

    Args:
        url: http or https.
        target: the file to make, with its folders.
        sha256: what the file's hash (hex) must be.

    Returns:
        False if a file of this hash was there already, and was left alone.

    Raises:
        UserError: if it cannot be fetched, does not fit on the disk or has another hash.
    """
    if not re.fullmatch(r"https?://[^\s/]+/\S+", url):
        raise UserError(f"--url {url}: give the file's address, such as https://a.mirror/{_NAME}")
    if target.exists():
        if file_sha256(target) == sha256:
            return False
        raise UserError(
            f"{target}: is there, but not the published file (its SHA-256 differs): remove it or "
            "give another --output"
        )
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    _fetch(url, part)
    found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise UserError(
            f"{url}: not the published file (SHA-256 {found[:12]}..., expected {sha256[:12]}...), "
            "so it was removed: try again, or another --url"
        )
    files.replace_file(part, target)
    return True


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path) -> None:
    """Attempts until the file is whole, as long as attempts bring something."""
    fruitless = 0
    while True:
        before = _held_bytes(part)
        try:
            _attempt(url, part)
            return
        except _BrokenOffError as error:
            held = _held_bytes(part)
            fruitless = 0 if held > before else fruitless + 1
            if fruitless == _FRUITLESS_ATTEMPTS:
                raise UserError(
                    f"{url}: broke off after {held / 1e6:.1f} MB ({error}): run again to go on "
                    "from there"
                ) from None
            time.sleep(_RETRY_WAIT_S)


def _attempt(url: str, part: Path) -> None:
    """Asks for what `part` lacks and appends it.

    Raises:
        _BrokenOffError: if it may work the next time.
        UserError: if it will not.
    """
    held = _held_bytes(part)
    request = urllib.request.Request(url, headers={"User-Agent": "mbh_jax"})
    if held:
        request.add_header("Range", f"bytes={held}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            size = _size_of(answer, held)
            _check_disk_space(part, size)
            with part.open("r+b" if part.exists() else "wb") as file:
                file.truncate(size.start)
                file.seek(size.start)
                _copy(answer, file, size)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{held}":
                return
            part.unlink()
            raise _BrokenOffError("what was there was longer than the file") from None
        is_busy = error.code == http.HTTPStatus.TOO_MANY_REQUESTS
        if is_busy or error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _BrokenOffError(f"HTTP {error.code} {error.reason}") from None
        raise UserError(f"{url}: HTTP {error.code} {error.reason}: give another --url") from None
    except urllib.error.URLError as error:
        if held:
            raise _BrokenOffError(error.reason) from None
        raise UserError(
            f"{urlsplit(url).netloc} cannot be reached ({error.reason}): connect this machine to "
            f"the internet, give the --url of a mirror, or copy {_NAME} from elsewhere"
        ) from None
    except http.client.InvalidURL as error:
        raise UserError(f"--url {url}: {error}: give the file's address") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _BrokenOffError(str(error) or type(error).__name__) from None


def _size_of(answer: http.client.HTTPResponse, held: int) -> _Size:
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != held:
            raise _BrokenOffError("the server sent another range than it was asked for")
        return _Size(held, None if match[2] == "*" else int(match[2]))
    length = answer.headers.get("Content-Length", "")
    return _Size(0, int(length) if length.isdigit() else None)


def _check_disk_space(part: Path, size: _Size) -> None:
    if size.total is None:
        return
    missing = size.total - _held_bytes(part)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise UserError(
            f"{part.parent}: {missing / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free: make "
            "room, or give another --output"
        )


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, size: _Size) -> None:
    position = size.start
    with tqdm(
        desc=_NAME, initial=position, total=size.total, unit="B", unit_scale=True, disable=None
    ) as progress:
        while chunk := answer.read(_CHUNK_BYTES):
            file.write(chunk)
            position += len(chunk)
            progress.update(len(chunk))
    if size.total is not None and position < size.total:
        raise _BrokenOffError("the connection was closed")


def _held_bytes(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.download", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--output",
        type=local_path,
        default=Path("data/raw"),
        help="folder (default: data/raw)",
    )
    parser.add_argument("--url", default=URL, help="of a mirror, which has the same file")
    options = parser.parse_args(arguments)
    target = options.output / _NAME
    with one_line_errors():
        use_default_signals()
        if download(options.url, target, SHA256):
            print(f"written to {target}, SHA-256 as published")
        else:
            print(f"{target} is there already, SHA-256 as published: left alone")
        print(f"next: python -m data_prep.build_tfrecords --source {target} --output data/bhsd")


if __name__ == "__main__":
    main()

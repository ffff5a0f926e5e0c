"""Paths of the package's data files and of the user's own. Files are written completely or not at
all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
# A wheel carries profiles/, pages/, web/ and app.py inside the package; a checkout has them next to
# it.
IN_WHEEL = PACKAGE / "_data"
HOME = IN_WHEEL if IN_WHEEL.is_dir() else PACKAGE.parent
PROFILES = HOME / "profiles"
WEB = HOME / "web"
APP = HOME / "app.py"


class NotWritten(OSError):
    """A file or folder could not be written. The message is one line: the path and the reason."""

    def __init__(self, path: Path, why: OSError) -> None:
        super().__init__(f"{path} - {why.strerror or why}")


def data_path() -> Path:
    """The folder of runs, logs, locks and calibrations: `HYBRID_DATA_DIR`, or the user's data
    folder. It may not exist yet."""
    named = os.environ.get("HYBRID_DATA_DIR")
    return Path(named or platformdirs.user_data_dir("hybrid-explorer"))


def data_dir() -> Path:
    """`data_path`, created if it is missing. Raises NotWritten if it cannot be created."""
    return folder(data_path())


def folder(path: Path) -> Path:
    """`path`, created with its parents if it is missing. Raises NotWritten if it cannot be
    created."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritten(path, error) from None
    return path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file completely or not at all (`in_place_of`). Text is UTF-8. Raises NotWritten, e.g.
    on a full disk."""
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():  # a pipe or a terminal cannot be replaced
        try:
            path.write_bytes(data)
        except OSError as error:
            raise NotWritten(path, error) from None
        return
    with in_place_of(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A temporary file next to `path`. It replaces `path` when the block ends without an error.

    Raises NotWritten for an OSError in the block or in the replacement. Then `path` is unchanged
    and the temporary file is removed."""
    place = Path(os.path.realpath(path))  # replaces the target of a symlink, not the link
    temporary = place.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, temporary)
        temporary.replace(place)
    except OSError as error:
        raise NotWritten(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)

"""Safe reading of files that a user names. It never waits for a pipe, reads a device, or reads more
than expected.

Any problem with a file raises a one-line SpecError that begins with its path.
"""

from pathlib import Path
from stat import S_ISDIR, S_ISREG

from hybrid_core.validation import SpecError

MAX_BYTES = 1_000_000  # of a design or a config
# Of a text to train on or to hide needles in, and of a checkpoint's text files.
MAX_TEXT_BYTES = 200_000_000
# Of a checkpoint's files that are read whole.
TEXT_SUFFIXES = (".json", ".txt", ".model", ".jinja")


def read_file(path: Path, what: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file. Raises SpecError when it is missing, a folder, a pipe, a device,
    unreadable or larger than `most`."""
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode):
            raise SpecError(f"{path}: not a file")
        if found.st_size > most:
            raise SpecError(f"{path}: {too_long(found.st_size, what, most)}")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except SpecError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: {reason}") from None
    if len(data) > most:  # files in /proc report a size of 0
        raise SpecError(f"{path}: {too_long(len(data), what, most)}")
    return data


def read_text(path: Path, what: str, most: int = MAX_TEXT_BYTES) -> str:
    """The text of a regular file. Raises SpecError as `read_file` does, and if the text is not
    UTF-8."""
    return decoded(read_file(path, what, most), f"{path}: ")


def decoded(data: bytes, where: str = "") -> str:
    """Bytes as text, without the byte order mark that some editors write. Raises SpecError, whose
    message starts with `where`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{where}not UTF-8 text (byte {error.start})") from None


def require_files(folder: Path, what: str) -> None:
    """Raise SpecError unless everything in a folder can be opened without waiting, and its text
    files are small enough to be read whole.

    For folders that a library reads, such as a checkpoint's. Broken links pass, because the library
    itself reports missing files."""
    try:
        for path in sorted(folder.iterdir()):
            if path.exists():
                _require_file(path, what)
    except OSError as error:
        raise SpecError(f"{folder}: {error.strerror or error}") from None


def _require_file(path: Path, what: str) -> None:
    found = path.stat()
    if not S_ISREG(found.st_mode) and not S_ISDIR(found.st_mode):
        raise SpecError(f"{path}: neither a file nor a folder")
    is_text = path.suffix in TEXT_SUFFIXES
    if is_text and found.st_size > MAX_TEXT_BYTES:
        raise SpecError(f"{path}: {too_long(found.st_size, what, MAX_TEXT_BYTES)}")


def too_long(size: int, what: str, most: int = MAX_BYTES) -> str:
    """The error text for an input that is too large."""
    return f"{size:,} bytes - a {what} may have at most {most:,}"

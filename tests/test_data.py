"""Files of the user's: whole or not at all, on a full disk, a read-only one, and where there is no
place to put them."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_core.cli.main import main
from hybrid_core.data import NotWritten, data_dir, in_place_of, write_whole
from hybrid_core.live.retrieval import texts
from hybrid_core.speed import hardware
from hybrid_core.speed.hardware import catalogue
from hybrid_core.validation import SpecError


def full_disk(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that may write 100 bytes to a file and no more."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    return subprocess.run(
        [sys.executable, "-m", "hybrid_core", *command],
        preexec_fn=limit,
        env=os.environ | environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_file_is_replaced_with_its_mode_and_through_its_link(tmp_path: Path) -> None:
    place, link = tmp_path / "a.yaml", tmp_path / "link.yaml"
    place.write_text("before")
    place.chmod(0o640)
    link.symlink_to(place)
    write_whole(link, "after \N{GREEK SMALL LETTER ALPHA}")
    assert place.read_text("utf-8") == "after \N{GREEK SMALL LETTER ALPHA}" and link.is_symlink()
    assert place.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["a.yaml", "link.yaml"]


def test_a_new_file_has_the_mode_that_the_user_gives_files(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"\x00\xff")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "through")
    assert os.read(reader, 100) == b"through" and pipe.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_stood_there_stays_when_the_disk_is_full(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a").write_text("before")
    monkeypatch.setattr(os if step == "fsync" else Path, step, no_space)
    with pytest.raises(NotWritten, match=r"/a - No space left on device$"):
        write_whole(tmp_path / "a", "after")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "before"


def test_what_is_given_up_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), in_place_of(tmp_path / "a") as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("import", "{config}", "-o", "{out}"),
        ("export", "inter-1to5-1b", "--to", "yaml", "-o", "{folder}"),
    ],
    ids=lambda command: command[0],
)
def test_a_command_on_a_full_disk_says_one_line_and_leaves_what_was_there(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "spec.yaml"
    out.write_text("before")
    config = Path("profiles/models/configs/Jamba-v0.1.json").resolve()
    given = [word.format(config=config, out=out, folder=tmp_path) for word in command]
    done = full_disk(*given, HYBRID_DATA_DIR=str(tmp_path))
    assert done.returncode == 2 and done.stderr == f"output: {out} - File too large\n"
    assert os.listdir(tmp_path) == [out.name] and out.read_text() == "before"


@pytest.fixture(params=["a file", "no such place"])
def no_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A data folder that cannot be made."""
    (tmp_path / "file").touch()
    place = {"a file": str(tmp_path / "file"), "no such place": "/proc/no/such"}[request.param]
    monkeypatch.setenv("HYBRID_DATA_DIR", place)
    return place


def test_costs_need_no_data_folder(no_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware.calibrated() == {} and hardware.unreadable() == {}
    assert main(["cost", "llama-100m"]) == 0
    assert capsys.readouterr().err == ""


def test_a_data_folder_that_cannot_be_made_is_one_line(
    no_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotWritten, match=no_folder):
        data_dir()
    with pytest.raises(NotWritten, match=no_folder):
        hardware.keep_calibration(catalogue()["cpu_server"])
    with pytest.raises(SpecError, match=f"text: {no_folder}"):
        texts.keep(b"a text")
    assert main(["calibrate", "--device", "cpu"]) == 1  # before it measures
    said = capsys.readouterr().err
    assert said.startswith(no_folder) and len(said.splitlines()) == 1


def test_a_calibration_on_a_full_disk_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hybrid_core.live.profiling.calibrate import Calibration

    measured = catalogue()["cpu_server"].model_copy(update={"key": "this_cpu_bf16"})
    monkeypatch.setattr(Calibration, "run", lambda *_: measured)  # which takes half a minute
    monkeypatch.setattr(
        os,
        "fsync",
        lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    )
    monkeypatch.setenv("HYBRID_DATA_DIR", str(tmp_path))
    assert main(["calibrate", "--device", "cpu"]) == 1
    assert (
        capsys.readouterr().err
        == f"{tmp_path}/calibration-this_cpu_bf16.json - No space left on device\n"
    )
    assert os.listdir(tmp_path) == []

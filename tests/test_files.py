import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_core.cli.main import main
from hybrid_core.design.spec import ArchSpec
from hybrid_core.files import MAX_BYTES, decoded, read_file
from hybrid_core.interop import published
from hybrid_core.interop.huggingface import read_config
from hybrid_core.live.retrieval.options import CheckpointOptions
from hybrid_core.live.retrieval.probes import read_bytes
from hybrid_core.validation import SpecError
from tests.checkpoints import save_tiny_llama

BRACKETS = b"[" * 100_000 + b"]" * 100_000


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole: it takes no space


def endless(path: Path) -> None:
    """A file that says it is empty and is larger than a config may be."""
    path.symlink_to("/proc/kallsyms")


Make = Callable[[Path], object]
UNREADABLE: dict[str, tuple[Make, str]] = {
    "pipe": (pipe, "not a file"),
    "device": (device, "not a file"),
    "folder": (folder, "not a file"),
    "huge": (huge, "1,000,000,000,000 bytes - a"),
    "missing": (lambda path: None, "No such file or directory"),
}
NO_CONFIG: dict[str, tuple[Make, str]] = UNREADABLE | {
    "list": (lambda path: path.write_bytes(b"[1, 2]"), "[1, 2] - a config is a mapping"),
    "brackets": (lambda path: path.write_bytes(BRACKETS), "nested deeper than 20 levels"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "not UTF-8 text (byte 0)"),
    "number": (
        lambda path: path.write_bytes(b'{"hidden_size": ' + b"9" * 5000 + b"}"),
        "thousands of digits",
    ),
}


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(SpecError) as error:
        ask()
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert len(line) <= 400
    return line


@pytest.mark.parametrize("kind", NO_CONFIG)
def test_a_checkpoint_whose_config_is_nonsense_is_refused_in_one_line(
    kind: str, tmp_path: Path
) -> None:
    make, said = NO_CONFIG[kind]
    make(tmp_path / "config.json")
    assert said in refusal(CheckpointOptions(path=str(tmp_path)).design)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_design_and_texts_that_are_no_files_are_refused_without_waiting(
    kind: str, tmp_path: Path
) -> None:
    make, said = UNREADABLE[kind]
    path = tmp_path / "given"
    make(path)
    assert said in refusal(lambda: ArchSpec.load(path))
    assert said in refusal(lambda: read_config(path))
    assert said in refusal(lambda: read_bytes(str(path), 1))


@pytest.mark.skipif(not os.access("/proc/kallsyms", os.R_OK), reason="no such file here")
def test_a_file_that_hides_its_size_is_read_no_further_than_it_may_be(tmp_path: Path) -> None:
    endless(tmp_path / "design.yaml")
    assert f"{MAX_BYTES + 1:,} bytes" in refusal(lambda: ArchSpec.load(tmp_path / "design.yaml"))


@pytest.mark.parametrize(
    "name",
    ["x" * 5000, "a\0b", "\x1b[2Jgone", "two\nlines"],
    ids=["long", "null", "escape", "lines"],
)
def test_a_name_that_no_file_can_have_is_shown_and_not_obeyed(name: str) -> None:
    line = refusal(lambda: published.resolve(name))
    assert "neither a preset" in line
    assert line.isprintable()


def test_a_pipe_among_a_checkpoints_files_is_refused_before_a_library_waits_for_it(
    tmp_path: Path,
) -> None:
    from hybrid_core.live.weights import load_folder

    save_tiny_llama(tmp_path)
    asked = CheckpointOptions(path=str(tmp_path))
    assert asked.design().n_layers == 2
    for name in ("tokenizer.json", "more.safetensors"):
        (tmp_path / name).unlink(missing_ok=True)
        pipe(tmp_path / name)
        assert f"{name}: neither a file nor a folder" in refusal(asked.design)
        assert f"{name}: neither a file nor a folder" in refusal(lambda: load_folder(tmp_path))
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ],
)
@pytest.mark.parametrize(
    "text",
    [b"[]", BRACKETS, b"\xff\xfe", b'{"weight_map": 3}'],
    ids=["list", "deep", "bytes", "other"],
)
def test_nonsense_in_a_checkpoints_other_files_is_one_line_or_harmless(
    name: str, text: bytes, tmp_path: Path
) -> None:
    import torch

    from hybrid_core.live.retrieval.checkpoint import load

    save_tiny_llama(tmp_path)
    (tmp_path / name).write_bytes(text)
    if name.endswith("index.json"):
        (tmp_path / "model.safetensors").unlink()
        assert "no readable model" in refusal(
            lambda: load(str(tmp_path), torch.float32, torch.device("cpu"))
        )
        return
    try:
        load(str(tmp_path), torch.float32, torch.device("cpu"))
    except SpecError as error:
        assert len(str(error).splitlines()) == 1


def test_the_command_says_it_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(tmp_path / "design.yaml")
    assert main(["cost", str(tmp_path / "design.yaml")]) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'design.yaml'}: not a file\n"


def test_text_loses_its_byte_order_mark_and_what_is_no_text_is_refused() -> None:
    assert decoded(b"\xef\xbb\xbfname: a") == "name: a"
    with pytest.raises(SpecError, match=r"design\.yaml: not UTF-8 text \(byte 2\)"):
        decoded(b"ab\xff", "design.yaml: ")


def test_a_file_may_be_as_long_as_its_bound_and_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "five"
    path.write_bytes(b"12345")
    assert read_file(path, "design", most=5) == b"12345"
    with pytest.raises(SpecError, match="5 bytes - a design may have at most 4"):
        read_file(path, "design", most=4)

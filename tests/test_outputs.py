"""What is written: whole or not at all, by nobody's planted link, and only over a regular file."""

from __future__ import annotations

import ast
import errno
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import l2a_transfer
from l2a_transfer import files
from l2a_transfer.errors import L2AError, OutputExistsError, StoreError
from l2a_transfer.evaluation.evaluate import evaluate_files
from l2a_transfer.evaluation.results import EvalConfig, EvalResults
from l2a_transfer.explain.draw import contact_sheet, maps_folder, write_maps
from l2a_transfer.explain.interface import ImageMaps
from l2a_transfer.explain.maps import attention_maps
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends.pixels import PixelsBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.files import leftovers, replacing_all, write_whole
from l2a_transfer.lock import IN_FOLDER, folder_lock, output_lock
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import save_weights
from l2a_transfer.report.write import write_report
from l2a_transfer.training.checkpoint import save_checkpoint
from tests.conftest import TINY, assert_fails, l2a, memory_source, save_picture
from tests.feature_files import blobs, feature_set, labels_of, save
from tests.test_maps_file import save as save_maps
from tests.test_robustness import named

Writer = Callable[[Path], object]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> EvalResults:
    labels = labels_of(3, 20)
    path = save(tmp_path_factory.mktemp("features") / "f.h5", feature_set(labels, blobs(labels)))
    return evaluate_files([path], EvalConfig(c_grid=(0.01,), folds=2), progress=False)


@pytest.fixture(scope="module")
def drawn() -> ImageMaps:
    return attention_maps(TINY, memory_source().image(0), names="noise", side=64)


def features_to(path: Path) -> None:
    labels = labels_of(3, 20)
    save(path, feature_set(labels, blobs(labels)))


def weights_to(path: Path) -> None:
    save_weights(*load_model(TINY), path)


@pytest.fixture(params=["features", "extraction", "weights", "sheet", "checkpoint", "report", "maps", "maps file"])
def writer(request: pytest.FixtureRequest, results: EvalResults, drawn: ImageMaps) -> tuple[str, Writer]:
    """The name of an output, and what writes it, allowed to replace what is there."""

    def maps_to(path: Path) -> None:
        with maps_folder(path.parent, ["0"], overwrite=True):
            write_maps([drawn], ["0"], path.parent, title="t")

    return {
        "features": ("f.h5", features_to),
        "extraction": ("f.h5", lambda path: extract(memory_source(), PixelsBackend(), path, overwrite=True)),
        "weights": ("w.safetensors", weights_to),
        "sheet": ("sheet.png", lambda path: contact_sheet([drawn], path, title="t")),
        "checkpoint": ("checkpoint.pt", lambda path: save_checkpoint(path, {"epoch": 1})),
        "report": ("report.md", lambda path: write_report(results, path.parent, overwrite=True)),
        "maps": ("0-L2.png", maps_to),
        "maps file": ("m.h5", save_maps),
    }[request.param]


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, suppress(OSError):
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's path may have 107 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except OSError as error:
        pytest.skip(f"no devices can be made here: {error}")


# Only a regular file is replaced -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dangling link", "link", "pipe", "socket", "device"])
def test_overwriting_replaces_no_device_link_or_pipe(tmp_path: Path, writer: tuple[str, Writer], kind: str) -> None:
    name, write = writer
    (tmp_path / "victim").write_text("precious")
    out = tmp_path / "out" / name
    out.parent.mkdir()
    {
        "dangling link": lambda path: path.symlink_to("nowhere"),
        "link": lambda path: path.symlink_to(tmp_path / "victim"),
        "pipe": os.mkfifo,
        "socket": listening,
        "device": device,
    }[kind](out)
    before = out.lstat()
    with pytest.raises(L2AError, match=rf"{name}.*only a regular file can be overwritten"):
        write(out)
    assert (out.lstat().st_ino, out.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [path.name for path in out.parent.iterdir()] == [name]
    assert (tmp_path / "victim").read_text() == "precious"


def test_export_replaces_no_link_and_says_so_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2a_transfer.export._convert", lambda *_: pytest.fail("the export had begun"))
    out = tmp_path / "x.onnx"
    for target in ("nowhere", "victim"):
        (tmp_path / "victim").write_text("precious")
        out.symlink_to(target)
        for options in ({}, {"overwrite": True}):
            with pytest.raises(OutputExistsError, match=r"x\.onnx: is a symbolic link, but only a regular file"):
                export_onnx(TINY, out, **options)
        out.unlink()


def test_svm_eval_does_not_fit_where_it_could_not_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "l2a_transfer.evaluation.evaluate.evaluate_files", lambda *_, **__: pytest.fail("the SVMs were fitted")
    )
    features_to(tmp_path / "f.h5")
    for name in ("results.csv", "confusion-toy-toy-model.svg"):
        out = tmp_path / name.replace(".", "-")
        out.mkdir()
        (out / name).symlink_to("nowhere")
        for options in ([], ["--overwrite"]):
            assert_fails(l2a("svm-eval", tmp_path / "f.h5", "--out", out, *options), 1, f"{name}: is a symbolic link")


def test_something_that_comes_while_a_file_is_written_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "f"

    def write() -> None:
        with files.replacing(out) as file:
            file.write(b"content")
            os.mkfifo(out)

    with pytest.raises(OutputExistsError, match="is a pipe"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# Partial files -------------------------------------------------------------------------------------------------------


def test_a_planted_partial_link_is_not_written_through(tmp_path: Path, writer: tuple[str, Writer]) -> None:
    name, write = writer
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out" / name
    out.parent.mkdir()
    for planted in (f"{name}.partial", f"{name}.lock"):
        (out.parent / planted).symlink_to(victim)
    with suppress(L2AError):
        write(out)
    assert victim.read_text() == "precious"
    assert not out.is_symlink()


def test_a_link_at_the_very_name_of_a_partial_file_is_not_written_through(
    tmp_path: Path, writer: tuple[str, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = writer
    monkeypatch.setattr(files, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="0123456789abcdef")))
    monkeypatch.setattr("l2a_transfer.lock.remove_leftovers", lambda *_: None)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out" / name
    out.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (out.parent / f"{name}.0123456789ab.partial").symlink_to(victim)
    (out.parent / f"{files.PARTIAL_FOLDER}.0123456789ab.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((L2AError, OSError), match="File exists"):
        write(out)
    assert victim.read_text() == "precious"
    assert not any((tmp_path / "elsewhere").iterdir())


def test_the_folder_is_synced_after_every_rename(
    tmp_path: Path, writer: tuple[str, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = writer
    log: list[tuple[str, str]] = []
    replace, fsync = os.replace, os.fsync

    def renamed(old: Any, new: Any) -> None:
        replace(old, new)
        log.append(("renamed", str(Path(new).parent)))

    def synced(opened: int) -> None:
        log.append(("synced", os.readlink(f"/proc/self/fd/{opened}")))
        fsync(opened)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not say which file is synced")
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    write(tmp_path / name)
    last = max(k for k, entry in enumerate(log) if entry == ("renamed", str(tmp_path)))
    assert ("synced", str(tmp_path)) in log[last:]


def test_a_partial_file_of_a_killed_process_goes_and_other_files_stay(tmp_path: Path) -> None:
    mine, others = "f.h5.0123456789ab.partial", ("f.h5.partial", "g.h5.0123456789ab.partial", "f.h5.0123.partial")
    for name in (mine, *others):
        (tmp_path / name).write_bytes(b"half")
    features_to(tmp_path / "f.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["f.h5", *others])


def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path: Path) -> None:
    name = "é" * 127
    with open(tmp_path / name, "wb"):  # the file system takes it
        pass
    write_whole(tmp_path / name, b"content")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"content")]


WRITES = {
    "write_text",
    "write_bytes",
    "mkstemp",
    "NamedTemporaryFile",
    "replace",
    "rename",
    "copyfile",
    "copy2",
    "tofile",
}
MODULES = {"os", "shutil", "tempfile", "np", "numpy", "torch"}


def test_one_module_writes_files() -> None:
    """Everything else hands its bytes to it, or the open file that it gives."""
    root = Path(l2a_transfer.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _writes(node):
                found.append(f"{path.relative_to(root)}: {ast.unparse(node)[:60]}")
    # A data set's folder is unpacked beside its place and moved there; text and colour replacements are methods. What
    # data/ahead.py opens is memory without a name.
    allowed = (
        "files.py: ",
        "data/download.py: os.replace(",
        "lock.py: os.open(",
        "data/ahead.py: open(os.memfd_create(",
    )
    assert [line for line in found if not line.startswith(allowed)] == []
    assert sum(line.startswith("files.py: ") for line in found) >= 3


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    of = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    if name in ("replace", "rename"):
        return of == "os"
    if name == "open" or (name == "File" and of == "h5py"):
        modes = [
            a.value
            for a in [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
            if isinstance(a, ast.Constant) and isinstance(a.value, str)
        ]
        to_sink = bool(call.args) and ast.unparse(call.args[0]) == "sink"
        return (any(set(mode) & set("wax+") for mode in modes) and not to_sink) or "O_CREAT" in ast.unparse(call)
    if name in ("save", "savez", "savez_compressed"):
        return of in MODULES and not any(ast.unparse(argument) == "whole" for argument in call.args)
    return name in WRITES


# Locks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", ["link", "dangling link", "hard link", "file", "number", "folder"])
def test_a_planted_lock_costs_its_target_nothing(tmp_path: Path, plant: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious" if plant != "hard link" else "")
    for hold, lock in ((output_lock, tmp_path / "f.h5.lock"), (folder_lock, tmp_path / "run" / IN_FOLDER)):
        out = tmp_path / ("f.h5" if hold is output_lock else "run")
        (tmp_path / "run").mkdir(exist_ok=True)
        {
            "link": lambda path: path.symlink_to(victim),
            "dangling link": lambda path: path.symlink_to(tmp_path / "nowhere"),
            "hard link": lambda path: os.link(victim, path),
            "file": lambda path: path.write_text("[[package]]"),
            "number": lambda path: path.write_text("4711\n"),
            "folder": lambda path: path.mkdir(),
        }[plant](lock)
        said = {
            "hard link": "another name",
            "file": "a file of another program",
            "number": "a file of another program",
            "folder": "is a folder",
        }.get(plant, "is a symbolic link")
        with pytest.raises(StoreError, match=rf"{lock.name}: .*{said}.*or choose another `out`"), hold(out):
            pass
        assert os.path.lexists(lock)
        (lock.rmdir if plant == "folder" else lock.unlink)()
    assert victim.read_text() == ("precious" if plant != "hard link" else "")
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_that_a_killed_process_left_holds_nobody_up(tmp_path: Path) -> None:
    for content in (b"l2a-transfer 4711\n", b""):
        (tmp_path / "f.h5.lock").write_bytes(content)
        with output_lock(tmp_path / "f.h5"):
            pass
        assert not any(tmp_path.iterdir())


def test_a_lock_can_be_had_on_a_full_disk(tmp_path: Path) -> None:
    with file_size_limit(0), output_lock(tmp_path / "f.h5"):
        assert (tmp_path / "f.h5.lock").exists()
    assert not any(tmp_path.iterdir())


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), folder_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / IN_FOLDER).is_file()
        raise KeyboardInterrupt  # before anything was computed
    assert not any(tmp_path.iterdir())
    with folder_lock(tmp_path / "a"):
        (tmp_path / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


def test_a_file_and_a_folder_of_one_name_exclude_each_other(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as other:
        with output_lock(out), pytest.raises(OutputExistsError, match="is being written"):
            other.submit(folder_lock(out).__enter__).result()
        assert not out.exists()
        with folder_lock(out), pytest.raises(OutputExistsError, match="is a folder"):
            other.submit(extract, memory_source(), PixelsBackend(), out).result()


def test_one_folder_by_two_names_is_one_output(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    (tmp_path / "real").mkdir()
    (tmp_path / "name").symlink_to("real")
    with ThreadPoolExecutor(1) as other:
        for hold, one, two in (
            (folder_lock, tmp_path / "real", tmp_path / "name"),
            (output_lock, tmp_path / "real" / "f", tmp_path / "name" / ".." / "real" / "f"),
        ):
            with hold(one), pytest.raises(OutputExistsError, match="is being written"):
                other.submit(hold(two).__enter__).result()


def test_what_another_user_left_of_an_extraction_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, elsewhere = tmp_path / "f.h5", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rows-000000000-000000040.safetensors").write_text("precious")
    (tmp_path / "f.h5.shards").symlink_to(elsewhere)
    for options in ({}, {"overwrite": True}):
        with pytest.raises(StoreError, match=r"f\.h5\.shards: not a folder"):
            extract(memory_source(), PixelsBackend(), out, progress=False, **options)  # type: ignore[arg-type]
    assert len(list(elsewhere.iterdir())) == 1
    (tmp_path / "f.h5.shards").unlink()
    (tmp_path / "f.h5.shards").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "f.h5.shards").stat().st_uid + 1)
    with pytest.raises(StoreError, match=r"f\.h5\.shards: belongs to another user"):
        extract(memory_source(), PixelsBackend(), out, progress=False)


# Full disks ----------------------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(bytes_: int) -> Iterator[None]:
    """No file of this process can become larger; SIGXFSZ is ignored, as Python has it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def small_disk(folder: Path, bytes_: int) -> Iterator[None]:
    """`folder` on a disk of its own that fills up; only root can make one, and not everywhere."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={bytes_}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


LOCALIZE = ["localize", "--model", TINY, "--side", "32", "--data", "imagefolder:{pictures}"]
NO_DRAWING = ("--side", "64", "--no-overlays", "--sheet", "0")
VERBS: dict[str, tuple[str, int, list[str]]] = {
    "maps": ("out", 8192, ["maps", "--model", TINY, "{picture}"]),
    "explain": ("out", 8192, ["explain", "--model", TINY, "--side", "32", "{picture}"]),
    "sanity": ("out", 8192, ["sanity", "--model", TINY, "{picture}", "--method", "evidence", "--seeds", "1"]),
    "faithfulness": ("out", 8192, ["faithfulness", "--model", TINY, "--steps", "1", "{picture}"]),
    "robustness": ("out", 8192, ["robustness", "--model", "{weights}", "--data", "imagefolder:{pictures}"]),
    "export": ("x.onnx", 8192, ["export", "--model", TINY]),
    "explain --store": ("out", 8192, ["explain", "--model", TINY, "{picture}", *NO_DRAWING, "--store", "{disk}/x.h5"]),
    "localize": ("out", 8192, [*LOCALIZE, "--masks", "csv:{boxes}"]),
    "localize --write-masks": ("out", 64, [*LOCALIZE, "--masks", "csv:{boxes}", "--write-masks", "{disk}/masks"]),
    "svm-eval": ("out", 8192, ["svm-eval", "{features}", "--c-grid", "0.01", "--folds", "2"]),
    "extract": ("x.h5", 8192, ["extract", "--model", "pixels", "--data", "imagefolder:{pictures}"]),
}


QUICK_FULL_DISKS = {
    *((verb, "disk") for verb in VERBS if verb not in ("export", "localize")),
    *((verb, "limit") for verb in ("extract", "explain", "svm-eval")),
}


@pytest.mark.parametrize(
    ("verb", "how"),
    [
        pytest.param(verb, how, marks=() if (verb, how) in QUICK_FULL_DISKS else pytest.mark.slow)
        for verb in VERBS
        for how in ("limit", "disk")
    ],
)
def test_a_full_disk_names_the_file_and_leaves_none(tmp_path: Path, verb: str, how: str) -> None:
    name, room, command = VERBS[verb]
    for label in "ab":
        for k in range(3):
            picture = save_picture(tmp_path / "pictures" / label / f"{k}.jpg", k)
    features_to(tmp_path / "f.h5")
    (tmp_path / "b.csv").write_text("".join(f"{label}/{k}.jpg,1,1,9,9\n" for label in "ab" for k in range(3)))
    given = {"picture": picture, "pictures": tmp_path / "pictures", "features": tmp_path / "f.h5"}
    save_weights(*named(classes=tuple("abcdefghij")), tmp_path / "w.safetensors")
    disk = tmp_path / "disk"
    disk.mkdir()
    given |= {"boxes": tmp_path / "b.csv", "weights": tmp_path / "w.safetensors", "disk": disk}
    run = [argument.format(**given) for argument in command]
    out = disk / name
    with small_disk(disk, room) if how == "disk" else file_size_limit(room):
        result = l2a("-q", *run, "--out", out)
        said = "File too large" if how == "limit" else "No space left on device"
        refused = {"explain --store": disk / "x.h5", "localize --write-masks": disk / "masks"}.get(verb, out)
        assert_fails(result, 1, str(refused), said)
        assert not [path for path in disk.rglob("*") if path.is_file()]
    assert l2a("-q", *run, "--out", out).exit_code == 0


def test_masks_whose_report_cannot_be_written_are_not_there(tmp_path: Path) -> None:
    for k in range(4):
        save_picture(tmp_path / "pictures" / "ab"[k % 2] / f"{k}.jpg", k)
    (tmp_path / "b.csv").write_text("".join(f"{'ab'[k % 2]}/{k}.jpg,1,1,9,9\n" for k in range(4)))
    given = {"pictures": tmp_path / "pictures"}
    run = [argument.format(**given) for argument in LOCALIZE] + ["--masks", f"csv:{tmp_path / 'b.csv'}"]
    run += ["--out", str(tmp_path / "out"), "--write-masks", str(tmp_path / "masks")]
    with file_size_limit(4096):
        assert_fails(l2a("-q", *run), 1, "localization.json: File too large")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "masks").exists()
    assert l2a("-q", *run).exit_code == 0


def test_a_disk_that_is_full_before_an_extraction_is_planned_keeps_no_folder_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(opened: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = ("extract", "--model", "pixels", "--data", "digits", "--limit", "20", "--out", tmp_path / "f.h5")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert_fails(
            l2a(*run), 1, "f.h5.shards/plan.json: cannot be written: No space left", "; the disk is full; free"
        )
    assert not (tmp_path / "f.h5.shards").exists()
    assert l2a(*run).exit_code == 0


# Interruptions -------------------------------------------------------------------------------------------------------


def test_maps_that_ctrl_c_stopped_can_be_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [save_picture(tmp_path / "in" / f"{k}.jpg", k) for k in range(2)]
    run = ("maps", "--model", TINY, "--out", tmp_path / "out", *pictures)
    sync, synced = os.fsync, list[int]()

    def third(opened: int) -> None:
        synced.append(opened)
        if len(synced) == 3:
            raise KeyboardInterrupt
        sync(opened)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", third)
        assert l2a(*run).exit_code == 130
    assert not (tmp_path / "out").exists()
    assert l2a(*run).exit_code == 0


LAST = {
    "maps": "attention.png",
    "explain": "explain.json",
    "svm-eval": "results.json",
    "sanity": "sanity.json",
    "localize": "localization.json",
    "faithfulness": "faithfulness.json",
    "robustness": "robustness.json",
}
"""What each verb moves last."""


@pytest.mark.parametrize("verb", LAST)
def test_what_was_interrupted_between_two_renames_goes_on_without_overwrite(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features_to(tmp_path / "f.h5")
    for k in range(4):
        picture = save_picture(tmp_path / "pictures" / "ab"[k % 2] / f"{k}.jpg", k)
    (tmp_path / "b.csv").write_text("".join(f"{'ab'[k % 2]}/{k}.jpg,1,1,9,9\n" for k in range(4)))
    save_weights(*named(classes=tuple("abcdefghij")), tmp_path / "w.safetensors")
    data = ["--data", f"imagefolder:{tmp_path / 'pictures'}"]
    arguments = {
        "maps": ["--model", TINY, picture],
        "explain": ["--model", TINY, picture],
        "svm-eval": [tmp_path / "f.h5", "--c-grid", "0.01"],
        "sanity": ["--model", TINY, picture, "--method", "evidence", "--seeds", "1"],
        "localize": [*("--model", TINY, *data, "--side", "32"), "--masks", f"csv:{tmp_path / 'b.csv'}"],
        "faithfulness": ["--model", TINY, picture, "--steps", "1"],
        "robustness": ["--model", tmp_path / "w.safetensors", *data, "--attack", "fgsm", "--epsilon", "1"],
    }[verb]
    out = tmp_path / "out"
    run = (verb, *arguments, "--out", out)
    replace, moved = os.replace, list[str]()

    def second(old: Any, new: Any) -> None:
        if len(moved) == 2:
            raise KeyboardInterrupt
        replace(old, new)
        moved.append(Path(new).name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second)
        assert l2a(*run).exit_code == 130
    assert leftovers(out) == set(moved)
    last = out / LAST[verb]
    last.write_text("someone's own")  # which no interrupted run has left
    assert_fails(l2a(*run), 1, f"{last.name}: exists")
    last.unlink()
    assert l2a(*run).exit_code == 0
    assert leftovers(out) == set()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert_fails(l2a(*run), 1, "exists", "--overwrite")


def test_files_in_folders_that_ctrl_c_stopped_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, moved = os.replace, list[Any]()

    def second(old: Any, new: Any) -> None:
        if len(moved) == 2:
            raise KeyboardInterrupt
        replace(old, new)
        moved.append(new)

    def write() -> None:
        with replacing_all(tmp_path) as put:
            for name in ("list", "a/b/1", "a/2", "c/3"):
                put(name, name.encode())

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", second)
        with pytest.raises(KeyboardInterrupt):
            write()
    assert leftovers(tmp_path) == {"a/2", "c/3"}
    write()
    there = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {name: name for name in ("list", "a/b/1", "a/2", "c/3")}
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("moment", ["written", "moving", "moved"])
def test_a_kill_while_files_appear_together_is_recovered_from(tmp_path: Path, moment: str) -> None:
    (tmp_path / "own").write_bytes(b"someone's own")
    child = os.fork()
    if child == 0:  # os._exit ends a process as a kill does: nothing is cleaned up
        try:
            with replacing_all(tmp_path) as put:
                for name in ("last", "first"):
                    put(name, name.encode())
                if moment == "written":
                    os._exit(0)
                replace = os.replace
                files.os = SimpleNamespace(**{**vars(os), "replace": lambda old, new: (replace(old, new), os._exit(0))})
                if moment == "moved":
                    files.os.replace = replace
                    files.shutil = SimpleNamespace(rmtree=lambda *_, **__: os._exit(0))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    there = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert there == {"written": {"own"}, "moving": {"own", "first"}, "moved": {"own", "first", "last"}}[moment]
    assert leftovers(tmp_path) == ({"first"} if moment == "moving" else set())  # a complete set is no leftover
    with replacing_all(tmp_path) as put:
        put("last", b"again")
        put("first", b"again")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "own": b"someone's own",
        "first": b"again",
        "last": b"again",
    }


def test_a_folder_of_partial_files_that_goes_while_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".l2a-transfer.0123456789ab.partial").mkdir()

    def gone(path: Path) -> Any:
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "lstat", gone)
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("verb", ["svm-eval", "maps", "sanity"])
def test_ctrl_c_after_the_last_rename_says_that_all_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    labels = labels_of(3, 20)
    source = save(tmp_path / "f.h5", feature_set(labels, blobs(labels)))
    options: list[Any] = [source, "--c-grid", "0.01"]
    if verb != "svm-eval":
        options = [save_picture(tmp_path / "a.jpg"), "--model", TINY]
    if verb == "sanity":
        options += ["--method", "evidence", "--seeds", "1"]

    def stopped(*paths: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", stopped)
    result = l2a(verb, *options, "--out", tmp_path / "r")
    assert result.exit_code == 130
    assert f"in {tmp_path / 'r'} is complete." in result.stderr
    assert "start it again" not in result.stderr


@pytest.mark.parametrize("verb", ["svm-eval", "maps", "quickstart", "sanity"])
def test_a_link_to_nothing_as_a_folder_is_called_one(tmp_path: Path, verb: str) -> None:
    (tmp_path / "r").symlink_to(tmp_path / "nowhere")
    labels = labels_of(3, 20)
    source = save(tmp_path / "f.h5", feature_set(labels, blobs(labels)))
    drawn = [save_picture(tmp_path / "a.jpg"), "--model", TINY]
    options = {"svm-eval": [source], "maps": drawn, "sanity": drawn}.get(verb, [])
    assert_fails(l2a(verb, *options, "--out", tmp_path / "r"), 1, str(tmp_path / "r"), "is a link to nothing")


def test_a_first_checkpoint_that_cannot_be_saved_promises_none(tmp_path: Path) -> None:
    for first in (True, False):
        path = tmp_path / "checkpoint.pt"
        if not first:
            save_checkpoint(path, {})
        with file_size_limit(16), pytest.raises(L2AError) as caught:
            save_checkpoint(path, {})
        assert ("the previous checkpoint is kept" in str(caught.value)) != first
        assert ("last checkpoint" in str(caught.value)) != first


def test_a_planted_list_of_moved_files_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = tmp_path / f"{files.PARTIAL_FOLDER}.0123456789ab.partial"
    aside.mkdir()
    (aside / "waiting").touch()
    for content in ('["waiting", "results.json"', "[" * 100_000, '{"a": 1}', "[1]"):
        (aside / files.MOVED_LIST).write_text(content)
        assert leftovers(tmp_path) == set()
    (aside / files.MOVED_LIST).write_text('["waiting", "results.json"]')
    assert leftovers(tmp_path) == {"results.json"}
    monkeypatch.setattr(os, "geteuid", lambda: aside.stat().st_uid + 1)
    assert leftovers(tmp_path) == set()

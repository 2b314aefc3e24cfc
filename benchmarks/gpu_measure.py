"""Measurements of the GPU campaign besides accuracy: correctness, possible speed, and actual speed.

Every function returns rows with raw samples that can be saved as JSON. Seconds are measured on the host, between two
points at which the device is idle.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from train_step import speeds

from l2a_transfer.data.sources import join_splits
from l2a_transfer.devices import ieee_float32
from l2a_transfer.features.backends.torch import TorchBackend
from l2a_transfer.features.extraction.extract import extract
from l2a_transfer.models.blocks import ConvBlock
from l2a_transfer.models.config import ModelConfig
from l2a_transfer.models.interface import Attended, Network
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import pretrained_names
from l2a_transfer.svm.estimators import LinearSVCPath
from l2a_transfer.training.flops import macs
from l2a_transfer.training.processes import Placement

ROOT = Path(__file__).parents[1]
MODEL = "vgg-att2-concat-pc"
WEIGHTS = f"{MODEL}.cifar10-w025"
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
FAMILIES = (
    "vgg",
    "vgg-gap",
    "vgg-pan",
    "vgg-dsna",
    "vgg-att3-concat-dp",
    "vgg-att2-concat-add",
    "vgg-att1-uniform",
    "vgg-att2-indep-pc",
)


def stopwatch(run: Callable[[], Any], device: torch.device, *, repeats: int, warm_up: int = 3) -> list[float]:
    """Seconds of each of `repeats` calls, after `warm_up` uncounted calls."""
    samples = []
    for k in range(warm_up + repeats):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        if k >= warm_up:
            samples.append(time.perf_counter() - started)
    return samples


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gpu_tests(*, timeout_s: float) -> dict[str, Any]:
    """Run `pytest -m gpu` in a separate process."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/test_backends.py",
        "tests/test_engine.py",
        "tests/test_training_runs.py",
    ]
    done = _run(command, timeout_s)
    return {"command": "python -m pytest -m gpu", "returncode": done.returncode, "said": done.stdout[-3000:]}


def agreement(device: torch.device) -> list[dict[str, Any]]:
    """Features, maps and logits of every family on `device` compared with float32 on the CPU: relative errors."""
    generator = torch.Generator().manual_seed(0)
    images_u8 = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    rows = []
    for name in [*pretrained_names(), *(f"untrained:{family}@0.25" for family in FAMILIES)]:
        network, card = load_model(name)
        mean, std = (torch.tensor(v)[:, None, None] for v in (card.preprocess.mean, card.preprocess.std))
        images = (images_u8.float() / 255 - mean) / std
        expected = _attend(network, images, torch.device("cpu"), "fp32")
        for precision, tolerance in TOLERANCES.items():
            found = _attend(network, images, device, precision)
            errors = {
                "features": _error(found.features, expected.features),
                "logits": _error(found.logits, expected.logits),
                **{f"map {level}": _error(found.maps[level], expected.maps[level]) for level in expected.maps},
            }
            within = max(errors.values()) <= tolerance
            rows.append({"model": name, "precision": precision, "tolerance": tolerance, "within": within, **errors})
    return rows


@torch.inference_mode()
def _attend(network: Network, images: Tensor, device: torch.device, precision: str) -> Attended:
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    with ieee_float32(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return network.attend(images)


def _error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in float64."""
    a, b = found.cpu().double(), expected.cpu().double()
    return float((a - b).norm() / b.norm())


def same_bytes(device: torch.device, work: Path, *, timeout_s: float) -> list[dict[str, Any]]:
    """Whether two extractions and two short trainings with the same options give the same files."""
    commands = [
        (["extract", "--model", WEIGHTS, "--data", "caltech-mini", "--overwrite", "--out"], "same-{}.h5"),
        (
            [
                "train",
                "--model",
                MODEL,
                "--data",
                "caltech-mini",
                "--epochs",
                "2",
                "--width",
                "0.0625",
                "--overwrite",
                "--out",
            ],
            "same-{}",
        ),
    ]
    outs = [[work / name.format(k) for k in range(2)] for _, name in commands]
    with ThreadPoolExecutor() as pool:
        ended = [
            [pool.submit(_run, _cli(options, out, device), timeout_s) for out in own]
            for (options, _), own in zip(commands, outs, strict=True)
        ]
    rows = []
    for (options, _), own, futures in zip(commands, outs, ended, strict=True):
        done = [future.result() for future in futures]
        files = [[out] if out.is_file() else sorted(out.glob("*.safetensors")) for out in own]
        digests = [content_sha256(f[0]) if f and not d.returncode else None for f, d in zip(files, done, strict=True)]
        said = [d.stdout[-1500:] for d in done if d.returncode]
        same = None not in digests and digests[0] == digests[1]
        shown = f"l2a-transfer {' '.join(options[:-1])}"
        rows.append({"command": shown, "same": same, "digests": digests, "said": said})
    return rows


def _cli(options: list[str], out: Path, device: torch.device) -> list[str]:
    return [sys.executable, "-m", "l2a_transfer", "-q", *options, str(out), "--device", device.type]


def content_sha256(path: Path) -> str:
    """For a feature file, of all bytes; for weights, only of the tensors, because a card contains the duration of
    training."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        content = content[8 + int.from_bytes(content[:8], "little") :]
    return hashlib.sha256(content).hexdigest()


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        return subprocess.CompletedProcess(
            command, 124, said.decode(errors="replace") if isinstance(said, bytes) else said
        )


def ceilings(device: torch.device, *, side: int, copied_bytes: int, repeats: int) -> dict[str, Any]:
    """Peak rates of the device for products of random matrices, and for copies within its own memory."""
    matrix = []
    for precision in ("bf16", "tf32", "fp32"):
        a, b = (torch.randn(side, side, device=device).to(DTYPES.get(precision, torch.float32)) for _ in range(2))
        out = torch.empty_like(a)
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            samples = stopwatch(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, repeats=repeats)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
        matrix.append(
            {
                "precision": precision,
                "side": side,
                "seconds": samples,
                "flops_a_second": 2 * side**3 / statistics.median(samples),
            }
        )
    source = torch.randint(0, 256, (copied_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    samples = stopwatch(lambda: target.copy_(source), device, repeats=repeats)
    bandwidth = 2 * copied_bytes / statistics.median(samples)
    return {"matrix": matrix, "copy": {"bytes": copied_bytes, "seconds": samples, "bytes_a_second": bandwidth}}


def training_steps(
    device: torch.device, peak: float, configs: list[tuple[float, int, dict[str, bool]]], *, steps: int, epochs: int
) -> list[dict[str, Any]]:
    """Images per second of whole epochs for (width, batch size, {cudnn_benchmark, compile}), as a share of `peak`."""
    precision = "bf16" if device.type == "cuda" else "fp32"
    rows = []
    for width, B, how in configs:
        config = ModelConfig(MODEL, width=width, dropout=0.0)
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, how.get("cudnn_benchmark", False)
        started = time.perf_counter()
        try:
            placement = Placement(device.type, precision, compile=how.get("compile", False))
            rates = speeds(config, 32, B, steps, epochs, placement)
        finally:
            torch.backends.cudnn.benchmark = before
        rate = statistics.median(rates)
        rows.append(
            {
                "width": width,
                "batch_size": B,
                "precision": precision,
                **how,
                "images_per_s": rates,
                "median": rate,
                "step_ms": 1000 * B / rate,
                "share_of_matrix_peak": 6 * macs(config, 32) * rate / peak,
                "steps_a_sample": steps,
                "with_warm_up_s": time.perf_counter() - started,
            }
        )
    return rows


def folded(network: Network) -> Network:
    """The network in evaluation mode, with each batch norm of its trunk folded into the preceding convolution."""
    for module in network.eval().modules():
        if isinstance(module, ConvBlock):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return network


def forwards(
    device: torch.device, peaks: dict[str, float], widths: list[float], batch_sizes: list[int], forms: list[str]
) -> list[dict[str, Any]]:
    """Images per second of the bare forward pass: from normalised images on the device to features on the device."""
    rows = []
    for width in widths:
        config = ModelConfig(MODEL, width=width, dropout=0.0)
        for precision in ("fp32", "bf16"):
            for form in forms:
                network = build_model(config, seed=0).eval()
                if form != "eager":
                    folded(network)
                network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                for B in batch_sizes:
                    images = torch.randn(B, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
                    rows.append(
                        {
                            "width": width,
                            "precision": precision,
                            "form": form,
                            "batch_size": B,
                            **_forward(network, images, device, precision, form),
                        }
                    )
                    rate = rows[-1]["images_per_s"]
                    rows[-1]["share_of_matrix_peak"] = 2 * macs(config, 32) * rate / peaks[precision]
    return rows


def _forward(network: Network, images: Tensor, device: torch.device, precision: str, form: str) -> dict[str, Any]:
    def features(x: Tensor) -> Tensor:
        return torch.cat(list(network.attend(x).g_a.values()), dim=1)

    call: Callable[[Tensor], Tensor] = features
    if form == "compiled":
        call = torch.compile(features, mode="reduce-overhead" if device.type == "cuda" else None, dynamic=False)
    with (
        torch.inference_mode(),
        ieee_float32(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        started = time.perf_counter()
        call(images)
        _wait(device)
        first = time.perf_counter() - started
        samples = stopwatch(lambda: call(images), device, repeats=10)
    return {"first_call_s": first, "seconds": samples, "images_per_s": len(images) / statistics.median(samples)}


def extraction(
    device: torch.device, work: Path, configs: list[tuple[float, str, int]], *, n: int, repeats: int
) -> list[dict[str, Any]]:
    """From n arrays of 32 × 32 pixels in memory to a complete feature file, compared with the backend alone.

    `configs`: (width, precision, batch size).
    """
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 10
    source = join_splits("noise", "0123456789", {"all": (pictures, labels)})
    rows = []
    for width, precision, B in configs:
        network, card = load_model(f"untrained:{MODEL}@{width}")
        backend = TorchBackend(network, card, device=device.type, precision=precision)
        samples = []
        for _ in range(repeats):
            result = extract(source, backend, work / "speed.h5", batch_size=B, overwrite=True, progress=False)
            samples.append(result.seconds)
        batches = [np.ascontiguousarray(pictures[k : k + B].transpose(0, 3, 1, 2)) for k in range(0, n, B)]

        def stream(backend: TorchBackend = backend, batches: list[Any] = batches) -> None:
            for _ in backend.stream(batches):
                pass

        alone = stopwatch(stream, device, repeats=repeats, warm_up=1)
        rows.append(
            {
                "width": width,
                "precision": precision,
                "batch_size": B,
                "n": n,
                "extraction_s": samples,
                "backend_alone_s": alone,
                "images_per_s": n / statistics.median(samples),
                "images_per_s_of_the_backend_alone": n / statistics.median(alone),
            }
        )
    return rows


def svm_grid(device: torch.device, *, rows: int, columns: int, classes: int, folds: int) -> dict[str, Any]:
    """LinearSVCPath on the device and on the CPU compared with GridSearchCV on all cores: one grid, search and refit.

    Rows: Gaussian classes, with means so close that about a fifth of the rows are misclassified.
    """
    rng = np.random.default_rng(0)
    y = np.arange(rows) % classes
    X = rng.normal(size=(rows, columns)) + 2.5 / columns**0.25 * rng.normal(size=(classes, columns))[y] / 2
    X = X.astype(np.float32)
    Cs, cv = (1e-4, 1e-3, 1e-2, 1e-1), StratifiedKFold(folds)
    found: dict[str, Any] = {"rows": rows, "columns": columns, "classes": classes, "Cs": Cs, "folds": folds, "runs": []}
    for name in dict.fromkeys((device.type, "cpu")):
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            path = LinearSVCPath(Cs=Cs, cv=cv, device=name).fit(X, y)
            _wait(device)
            seconds = time.perf_counter() - started
        found["runs"].append(
            {
                "what": f"LinearSVCPath, {name}",
                "seconds": seconds,
                "best_C": path.best_params_["C"],
                "best_score": path.best_score_,
            }
        )
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(dual=False)), {"linearsvc__C": list(Cs)}, cv=cv, n_jobs=-1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        started = time.perf_counter()
        search.fit(X, y)
    found["runs"].append(
        {
            "what": f"GridSearchCV, {os.cpu_count()} processes",
            "seconds": time.perf_counter() - started,
            "best_C": search.best_params_["linearsvc__C"],
            "best_score": search.best_score_,
        }
    )
    return found

"""An ONNX graph is judged before ONNX Runtime sees it, and Ctrl-C is heard while it loads and runs."""

from __future__ import annotations

import _thread
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from l2a_transfer.errors import BackendError
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends import onnx as onnx_backend
from l2a_transfer.features.backends.onnx import OnnxBackend, read_exported, with_sha256
from l2a_transfer.features.backends.onnx_graph import ALIVE, MAX_NODES, OPERATORS, OPSET, TOTAL, check_graph
from l2a_transfer.features.extraction.interruptible import interruptible
from l2a_transfer.models.config import GLOBAL_BRANCH, ModelConfig
from l2a_transfer.models.normalizers import NORMALIZERS
from l2a_transfer.models.registry import build_model
from l2a_transfer.models.weights import CARD_KEY, Card, count_parameters
from l2a_transfer.preprocess import Preprocess
from tests.conftest import TINY, assert_fails, l2a

EXPORTED: list[tuple[str, str, str, int] | tuple[str, str, str, int, str]] = [
    ("vgg", "softmax", "auto", 32),
    ("vgg-gap", "softmax", "auto", 40),
    ("vgg-pan", "entmax15", "always", 32),
    ("vgg-dsna", "softmax", "auto", 48),
    ("vgg-att2-concat-uniform", "softmax", "always", 32),
    ("vgg-att3-indep-add", "sparsemax", "auto", 32),
    ("vgg-att3-concat-dp", "softmax", "auto", 36),
    ("vgg-att1-pc", "sigmoid-sum", "auto", 32),
    ("vgg-att2-concat-pc", "softmax", "auto", 32, "hard"),
    ("vgg-att1-dp", "softmax", "auto", 32, "top:3"),
]
"""These together have every operator."""
EVERY: list[tuple[Any, ...]] = [
    (architecture, normalizer, branch, 32)
    for architecture in (
        "vgg",
        "vgg-gap",
        "vgg-pan",
        "vgg-dsna",
        *(f"vgg-att{n}-{c}" for n in ("1", "2-concat", "3-indep") for c in ("pc", "dp", "add", "uniform")),
    )
    for normalizer in NORMALIZERS
    if NORMALIZERS[normalizer].exports
    for branch in GLOBAL_BRANCH
] + [
    (name, "softmax", "auto", 32, chosen)
    for name in ("vgg-att1-dp", "vgg-att3-indep-pc")
    for chosen in ("hard", "top:3")
]


def written(
    path: Path, architecture: str, normalizer: str, branch: str, size: int, selection: str = "soft"
) -> set[tuple[str, str, str]]:
    """(operator, attribute, domain) of what `export` writes; the file can be read again."""
    config = ModelConfig(architecture, width=1 / 32, normalizer=normalizer, global_branch=branch, selection=selection)
    model = build_model(config, seed=0).eval()
    card = Card("x", config, Preprocess(size=size), (), count_parameters(model), {"untrained": True, "seed": 0})
    result = export_onnx((model, card), path)
    content, found, _ = read_exported(result.path)
    assert found == card
    read = onnx.load_model_from_string(content)
    alive, total = check_graph(read, config, size)
    assert 0 < alive < ALIVE / 2
    assert alive < total < TOTAL / 2
    graph = read.graph
    names = {(node.op_type, attribute.name, node.domain) for node in graph.node for attribute in node.attribute}
    return names | {(node.op_type, "", node.domain) for node in graph.node}


@pytest.mark.slow
def test_the_allowlist_is_what_export_writes(tmp_path: Path) -> None:
    pytest.importorskip("entmax")
    found = set().union(*(written(tmp_path / f"{k}.onnx", *how) for k, how in enumerate(EXPORTED)))
    assert {domain for _, _, domain in found} == {""}
    assert {operator for operator, _, _ in found} == set(OPERATORS)
    attributes = {(operator, name) for operator, name, _ in found if name}
    # Conv's kernel_shape is left out by onnxscript 0.6: the weights' shape says the same.
    allowed = {(operator, name) for operator, names in OPERATORS.items() for name in names}
    assert allowed - attributes <= {("Conv", "kernel_shape")}
    for name in OPERATORS:
        kinds = {attribute.type for attribute in onnx.defs.get_schema(name, OPSET).attributes.values()}
        assert onnx.defs.OpSchema.AttrType.GRAPH not in kinds


@pytest.mark.slow
@pytest.mark.parametrize("how", EVERY, ids=lambda how: "-".join(map(str, how)))
def test_every_export_can_be_read_again(how: tuple[Any, ...], tmp_path: Path) -> None:
    pytest.importorskip("entmax")
    assert {operator for operator, _, _ in written(tmp_path / "x.onnx", *how)} <= set(OPERATORS)


@pytest.fixture(scope="module")
def exported(exported_tiny: Path) -> bytes:
    return exported_tiny.read_bytes()


Change = Callable[[onnx.ModelProto], Any]


def changed(path: Path, exported: bytes, change: Change) -> Path:
    """The exported file after `change`, with a digest that holds."""
    model = onnx.load_model_from_string(exported)
    del model.metadata_props[-1]
    change(model)
    path.write_bytes(with_sha256(model.SerializeToString(deterministic=True)))
    return path


def constant(model: onnx.ModelProto, name: str, values: Any, dtype: Any = np.int64) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=dtype), name))
    return name


def body() -> onnx.GraphProto:
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "x": TensorProto.FLOAT}
    shapes: dict[str, Any] = {"i": [], "go": [], "x": None}
    values = [helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in kinds.items()]
    nodes = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["x"], ["y"])]
    results = [helper.make_tensor_value_info(name, kinds[of], shapes[of]) for name, of in (("on", "go"), ("y", "x"))]
    return helper.make_graph(nodes, "body", values, results)


def loop(model: onnx.ModelProto) -> None:
    count, go = constant(model, "count", 2**62), constant(model, "go_on", True, np.bool_)
    node = helper.make_node("Loop", [count, go, "features"], ["endless"], name="endless", body=body())
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info("endless", TensorProto.FLOAT, None))


def condition(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "branch", [], [helper.make_tensor_value_info("images", TensorProto.UINT8, None)])
    model.graph.node.append(
        helper.make_node("If", [constant(model, "yes", True, np.bool_)], ["z"], then_branch=graph, else_branch=graph)
    )


def function(model: onnx.ModelProto) -> None:
    operators = [helper.make_opsetid("", OPSET)]
    model.functions.append(
        helper.make_function("mine", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], operators)
    )


def doubled(model: onnx.ModelProto) -> None:
    name = "features"
    for k in range(40):
        model.graph.node.append(helper.make_node("Concat", [name, name], [f"twice{k}"], axis=1))
        name = f"twice{k}"


def outer(model: onnx.ModelProto) -> None:
    rows = constant(model, "rows", np.zeros((40_000, 1)), np.float32)
    columns = constant(model, "columns", np.zeros((1, 40_000)), np.float32)
    model.graph.node.append(helper.make_node("Add", [rows, columns], ["square"]))


def batches_to_the_fourth(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shape", ["images"], ["n"], start=0, end=1))
    model.graph.node.append(helper.make_node("Concat", ["n", "n", "n", "n"], ["shape"], axis=0))
    model.graph.node.append(helper.make_node("Expand", [constant(model, "one", 1.0, np.float32), "shape"], ["large"]))


def large(model: onnx.ModelProto, name: str) -> str:
    """The name of a result that is half as large as the largest may be."""
    model.graph.node.append(helper.make_node("Cast", ["images"], [f"{name} floats"], to=TensorProto.FLOAT))
    weights = constant(model, f"{name} weights", np.zeros((32, 3, 1, 1)), np.float32)
    model.graph.node.append(helper.make_node("Conv", [f"{name} floats", weights], [name]))
    return name


def all_alive(model: onnx.ModelProto) -> None:
    """A chain whose results are added in the reverse order, so that none of them may be forgotten."""
    names = [large(model, "c0")]
    for k in range(5):
        model.graph.node.append(helper.make_node("Sigmoid", [names[-1]], [f"c{k + 1}"]))
        names.append(f"c{k + 1}")
    total = names.pop()
    while names:
        model.graph.node.append(helper.make_node("Add", [total, names.pop()], [f"{total} more"]))
        total = f"{total} more"


def one_after_the_other(model: onnx.ModelProto) -> None:
    name = large(model, "c0")
    for k in range(40):
        model.graph.node.append(helper.make_node("Sigmoid", [name], [f"c{k + 1}"]))
        name = f"c{k + 1}"


def first(model: onnx.ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def set_ints(model: onnx.ModelProto, operator: str, name: str, value: int) -> None:
    attribute = next(a for a in first(model, operator).attribute if a.name == name)
    attribute.ints[0] = value


def attach(model: onnx.ModelProto, attribute: onnx.AttributeProto) -> None:
    first(model, "Conv").attribute.append(attribute)


HOSTILE: dict[str, tuple[Change, str]] = {
    "an endless loop": (loop, "'Loop', which no exported network contains"),
    "a condition": (condition, "'If', which no exported network contains"),
    "a scan": (
        lambda m: m.graph.node.append(helper.make_node("Scan", ["images"], ["z"], body=body(), num_scan_inputs=1)),
        "'Scan'",
    ),
    "a function": (function, "the model has functions"),
    "another domain": (
        lambda m: m.graph.node.append(helper.make_node("Relu", ["features"], ["z"], domain="com.microsoft")),
        "'com.microsoft.Relu'",
    ),
    "operators of another domain": (
        lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
        "standard operator set 18",
    ),
    "another set of operators": (lambda m: setattr(m.opset_import[0], "version", 7), "standard operator set 18"),
    "a graph for an attribute": (
        lambda m: attach(m, helper.make_attribute("body", body())),
        "an attribute 'body' that no exported Conv has",
    ),
    "an attribute of another kind": (
        lambda m: attach(m, helper.make_attribute("group", "x")),
        "an attribute 'group' that no exported Conv has",
    ),
    "a step of 0": (lambda m: set_ints(m, "MaxPool", "strides", 0), "an attribute 'strides'"),
    "a window without end": (lambda m: set_ints(m, "MaxPool", "kernel_shape", 2**40), "an attribute 'kernel_shape'"),
    "a border without end": (lambda m: set_ints(m, "Conv", "pads", 2**30), "an attribute 'pads'"),
    "an endless constant": (
        lambda m: m.graph.node.append(helper.make_node("ConstantOfShape", [constant(m, "huge", [2**40])], ["z"])),
        "'ConstantOfShape', which no exported network contains",
    ),
    "a tile": (
        lambda m: m.graph.node.append(helper.make_node("Tile", ["features", constant(m, "often", [1, 2**40])], ["z"])),
        "'Tile', which no exported network contains",
    ),
    "an expansion to 8 TiB": (
        lambda m: m.graph.node.append(
            helper.make_node("Expand", [constant(m, "one", 1.0, np.float32), constant(m, "huge", [2**41])], ["z"])
        ),
        "'z', of the node '' (Expand), is larger than any value of its network",
    ),
    "an expansion to who knows what": (
        lambda m: m.graph.node.extend(
            [
                helper.make_node("Cast", ["images"], ["sizes"], to=TensorProto.INT64),
                helper.make_node("ReduceMax", ["sizes"], ["size"], keepdims=0),
                helper.make_node("Unsqueeze", ["size", constant(m, "zero", [0])], ["shape"]),
                helper.make_node("Expand", [constant(m, "one", 1.0, np.float32), "shape"], ["z"]),
            ]
        ),
        "is unknown in advance",
    ),
    "a size that is chosen": (
        lambda m: m.graph.node.extend(
            [
                helper.make_node("Shape", ["images"], ["n"], start=0, end=1),
                helper.make_node("LessOrEqual", ["n", constant(m, "four", [4])], ["few"]),
                helper.make_node("Where", ["few", "n", constant(m, "huge", [2**41])], ["shape"]),
                helper.make_node("Expand", [constant(m, "one", 1.0, np.float32), "shape"], ["z"]),
            ]
        ),
        "'z', of the node '' (Expand), is unknown in advance",
    ),
    "a square of batches": (batches_to_the_fourth, "'large', of the node '' (Expand), is larger"),
    "doubled forty times": (doubled, "is larger than any value of its network"),
    "values that are all alive": (all_alive, "its values alive at the same time are"),
    "more values than a network has": (
        one_after_the_other,
        "times as large as the largest allowed value; at most 16 times are allowed",
    ),
    "an outer sum": (outer, "'square', of the node '' (Add), is larger"),
    "integers divided": (
        lambda m: m.graph.node.append(helper.make_node("Div", [constant(m, "a", [1]), constant(m, "b", [0])], ["z"])),
        "'z', of the node '' (Div), has the element type 7",
    ),
    "a constant without its bytes": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[2**40])),
        "the constant 'c' is larger than its bytes",
    ),
    "a constant of minus one": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[-1])),
        "the constant 'c' is larger than its bytes",
    ),
    "a constant of many sides": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=1, dims=[0] * 2000)),
        "the constant 'c' has 2,000 axes",
    ),
    "a constant of text": (
        lambda m: m.graph.initializer.append(TensorProto(name="c", data_type=8, dims=[0])),
        "the element type 8",
    ),
    "a sparse constant": (
        lambda m: m.graph.sparse_initializer.append(onnx.SparseTensorProto(dims=[2**40])),
        "the graph has sparse_init",
    ),
    "training": (lambda m: m.training_info.append(onnx.TrainingInfoProto()), "the model has training_info"),
    "too many nodes": (
        lambda m: m.graph.node.extend([helper.make_node("Relu", ["features"], [f"r{k}"]) for k in range(MAX_NODES)]),
        "nodes; at most 1,000 are allowed",
    ),
    "a value that nobody gives": (
        lambda m: m.graph.node.append(helper.make_node("Relu", ["nobody"], ["z"])),
        "its sizes are inconsistent",
    ),
    "other images": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 2**20),
        "its input must be uint8 (N, 3, 32, 32)",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_graph_that_export_does_not_write_never_reaches_onnx_runtime(
    case: str, exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = HOSTILE[case]
    path = changed(tmp_path / "m.onnx", exported, change)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(BackendError) as caught:
        OnnxBackend(path, device="cpu")
    assert caught.value.problem.startswith(f"{path}: unexpected content for an exported file: ")
    assert words in caught.value.problem
    assert_fails(l2a("inspect", path), 1, str(path), "export it again")


def test_a_graph_that_is_unchanged_is_read(exported: bytes, tmp_path: Path) -> None:
    path = changed(tmp_path / "m.onnx", exported, lambda model: None)
    assert path.read_bytes() == exported
    assert OnnxBackend(path, device="cpu").features(np.zeros((2, 3, 32, 32), np.uint8)).shape == (2, 64)


def test_a_file_of_before_the_digest_of_weights_was_written_still_loads(exported: bytes, tmp_path: Path) -> None:
    def without(model: onnx.ModelProto) -> None:
        kept = [entry for entry in model.metadata_props if entry.key == CARD_KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        assert json.loads(kept[0].value)["name"] == TINY

    path = changed(tmp_path / "m.onnx", exported, without)
    assert read_exported(path)[2] == ""
    assert OnnxBackend(path, device="cpu").features(np.zeros((1, 3, 32, 32), np.uint8)).shape == (1, 64)


def is_computing() -> bool:
    return any(thread.name == "interruptible" for thread in threading.enumerate())


def interrupt_once_waiting(send_signal: Callable[[], object] | None = None) -> None:
    """Send SIGINT to this process when something is computed beside its main thread."""

    def send() -> None:
        while not is_computing():
            time.sleep(0.01)
        if send_signal is None:
            os.kill(os.getpid(), signal.SIGINT)
        else:
            send_signal()

    threading.Thread(target=send, daemon=True).start()


def main_thread_calls() -> list[str]:
    """The functions that the main thread is in, the innermost first, each once."""
    ident = threading.main_thread().ident
    assert ident is not None
    frame = sys._current_frames().get(ident)
    names: list[str] = []
    while frame is not None:
        if names[-1:] != [frame.f_code.co_name]:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


@pytest.fixture(autouse=True)
def sigint_is_a_keyboard_interrupt() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_is_heard_while_a_library_computes() -> None:
    stopped = threading.Event()
    interrupt_once_waiting()
    with pytest.raises(KeyboardInterrupt):
        interruptible(stopped.wait, stopped.set)
    assert stopped.is_set()


def test_ctrl_c_that_does_not_end_the_wait_is_heard_too() -> None:
    """As where it comes just before the wait: Python has noted the signal, and no system call was interrupted."""
    stopped, was_stopped = threading.Event(), []
    interrupt_once_waiting(_thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: was_stopped.append(stopped.wait(30)), stopped.set)
    assert was_stopped == [True]  # and not that it ended by itself


def test_a_computation_that_was_told_to_stop_is_waited_for_until_it_has() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def ends_later() -> None:
        stopped.wait()
        while main_thread_calls()[:2] != ["wait", "_wait"]:  # of threading.Condition, and of interruptible
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)  # whoever waits is asked again, and goes on waiting
        time.sleep(0.5)
        ended.set()

    interrupt_once_waiting()
    with pytest.raises(KeyboardInterrupt):
        interruptible(ends_later, stopped.set)
    assert ended.is_set()


def slow(model: onnx.ModelProto) -> None:
    """300 convolutions before the result, which take minutes, and each of them longer than a process to end."""
    nodes = model.graph.node
    constant(model, "slow weights", np.full((32, 32, 15, 15), 1e-4), np.float32)
    nodes.append(helper.make_node("Cast", ["images"], ["slow floats"], to=TensorProto.FLOAT))
    nodes.append(
        helper.make_node(
            "Conv", ["slow floats", constant(model, "slow w", np.zeros((32, 3, 1, 1)), np.float32)], ["slow0"]
        )
    )
    for k in range(300):
        nodes.append(helper.make_node("Conv", [f"slow{k}", "slow weights"], [f"slow{k + 1}"], pads=[7, 7, 7, 7]))
    nodes.append(
        helper.make_node("ReduceMean", ["slow300", constant(model, "slow axes", [1, 2, 3])], ["slow mean"], keepdims=0)
    )
    nodes.append(helper.make_node("Unsqueeze", ["slow mean", constant(model, "slow axis", [1])], ["slow column"]))
    last = next(node for node in nodes if "features" in node.output)
    last.output[list(last.output).index("features")] = "slow before"
    nodes.append(helper.make_node("Add", ["slow before", "slow column"], ["features"]))


TELLS_WHEN_IT_RUNS = """
import sys, onnxruntime
from l2a_transfer.cli.main import main
from l2a_transfer.features.backends import onnx_graph
onnx_graph.TOTAL = 1000
Options = onnxruntime.RunOptions
def told():
    print("runs", flush=True)
    return Options()
onnxruntime.RunOptions = told
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_ctrl_c_while_onnx_runtime_computes_ends_with_130_and_no_abort(exported: bytes, tmp_path: Path) -> None:
    path = changed(tmp_path / "slow.onnx", exported, slow)
    arguments = ["extract", "--model", path, "--data", "digits", "--limit", "64", "--workers", "0", "--out"]
    command = [sys.executable, "-c", TELLS_WHEN_IT_RUNS, *map(str, arguments), str(tmp_path / "f.h5")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("runs\n", ""):
            pass
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "terminate called" not in said


def test_ctrl_c_is_heard_while_a_graph_runs(exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_backend, "check_graph", lambda *_: None)
    backend = OnnxBackend(changed(tmp_path / "m.onnx", exported, loop), device="cpu")
    interrupt_once_waiting()
    with pytest.raises(KeyboardInterrupt):
        backend.run(np.zeros((1, 3, 32, 32), np.uint8))
    while is_computing():
        time.sleep(0.1)  # told to stop, ONNX Runtime ends its run


def test_ctrl_c_is_heard_while_a_graph_is_loaded(
    exported: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()

    def loads_for_ever(*_: Any, **__: Any) -> None:
        given_up.wait()

    monkeypatch.setattr("onnxruntime.InferenceSession", loads_for_ever)
    monkeypatch.setattr("l2a_transfer.features.extraction.interruptible.GRACE_S", 0.0)
    path = tmp_path / "m.onnx"
    path.write_bytes(exported)
    interrupt_once_waiting()
    with pytest.raises(KeyboardInterrupt):
        OnnxBackend(path, device="cpu")
    given_up.set()


def test_a_result_and_an_error_come_through_from_any_thread() -> None:
    assert interruptible(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(interruptible(threading.get_ident)))
    thread.start()
    thread.join()
    assert found == [thread.ident]

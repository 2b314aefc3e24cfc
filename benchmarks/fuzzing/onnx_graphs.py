"""ONNX files written by `export`, and graphs that it never writes, with a valid digest."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fuzzing.kinds import Kind, sha256
from fuzzing.mutate import NAMES, mutate, mutate_file, pick, special_file
from fuzzing.weights import NETWORK
from l2a_transfer.export import export_onnx
from l2a_transfer.features.backends.onnx import OnnxBackend, with_sha256
from l2a_transfer.features.store.verify import verify_onnx
from l2a_transfer.models.loading import load_model
from l2a_transfer.models.weights import CARD_KEY, DIGEST_KEY

INT64, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def seeds(folder: Path) -> None:
    (folder / "tiny.onnx").write_bytes(_exported())


@functools.cache
def _exported() -> bytes:
    network, card = load_model(NETWORK)
    with tempfile.TemporaryDirectory() as folder:
        return export_onnx((network, card), Path(folder) / "tiny.onnx").path.read_bytes()


def answer(path: Path) -> str:
    backend = OnnxBackend(path, device="cpu")
    verify_onnx(path, path.read_bytes())
    pixels = np.arange(3 * 32 * 32, dtype=np.uint32).astype(np.uint8).reshape(1, 3, 32, 32)
    return sha256(backend.features(pixels), backend.card)


def body_of(path: Path) -> bytes:
    """The model without the digest at its end."""
    return path.read_bytes()[: -len(with_sha256(b""))]


def load(path: Path) -> ModelProto:
    return onnx.load_model_from_string(body_of(path))


def save(path: Path, model: ModelProto) -> None:
    path.write_bytes(with_sha256(model.SerializeToString()))


def _whole(name: str, values: object, kind: int = INT64) -> TensorProto:
    array = np.asarray(values, dtype=helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(array, name)


def _in_front(model: ModelProto, rng: Random, node: onnx.NodeProto, constants: list[TensorProto], output: str) -> None:
    """Let a node that no exported graph has determine the features, so that no optimizer removes it."""
    graph = model.graph
    graph.initializer.extend(constants)
    last = next((n for n in graph.node if "features" in n.output), None)
    if last is None:
        graph.node.append(node)
        return
    last.output[list(last.output).index("features")] = "features before"
    nodes = [
        node,
        helper.make_node("ReduceMax", [output], ["hostile_most"], keepdims=0),
        helper.make_node("Mul", ["hostile_most", "hostile_zero"], ["hostile_none"]),
    ]
    graph.initializer.append(_whole("hostile_zero", 0, FLOAT))
    graph.node.extend([*nodes, helper.make_node("Add", ["features before", "hostile_none"], ["features"])])


def _loop(model: ModelProto, rng: Random) -> None:
    """A loop with the largest possible number of rounds, a nested loop, or one that keeps its results."""

    def body(depth: int) -> onnx.GraphProto:
        name = f"b{depth}"
        inputs = [
            helper.make_tensor_value_info(f"{name}_i", INT64, []),
            helper.make_tensor_value_info(f"{name}_c", BOOL, []),
            helper.make_tensor_value_info(f"{name}_v", FLOAT, None),
        ]
        nodes = [helper.make_node("Identity", [f"{name}_c"], [f"{name}_d"])]
        if depth:
            nodes.append(helper.make_node("Loop", ["hostile_n", "", f"{name}_v"], [f"{name}_w"], body=body(depth - 1)))
        elif grows:
            nodes.append(helper.make_node("Concat", [f"{name}_v", f"{name}_v"], [f"{name}_w"], axis=0))
        else:
            nodes.append(helper.make_node("Add", [f"{name}_v", f"{name}_v"], [f"{name}_w"]))
        outputs = [
            helper.make_tensor_value_info(f"{name}_d", BOOL, []),
            helper.make_tensor_value_info(f"{name}_w", FLOAT, None),
        ]
        return helper.make_graph(nodes, name, inputs, outputs)

    grows = rng.random() < 0.5
    rounds = rng.choice((1 << 62, 1 << 30, 3))
    node = helper.make_node("Loop", ["hostile_n", "", "hostile_v"], ["hostile_out"], body=body(rng.choice((0, 1, 30))))
    _in_front(model, rng, node, [_whole("hostile_n", rounds), _whole("hostile_v", [1.0], FLOAT)], "hostile_out")


def _greedy(model: ModelProto, rng: Random) -> None:
    """One node that creates large tensors from small ones."""
    size = rng.choice((1 << 28, 1 << 31, 1 << 36, 1 << 62, -1, 0))
    made = rng.choice(
        (
            (helper.make_node("ConstantOfShape", ["hostile_n"], ["hostile_out"]), [_whole("hostile_n", [size])]),
            (
                helper.make_node("Expand", ["hostile_v", "hostile_n"], ["hostile_out"]),
                [_whole("hostile_n", [size]), _whole("hostile_v", [1.0], FLOAT)],
            ),
            (
                helper.make_node("Tile", ["hostile_v", "hostile_n"], ["hostile_out"]),
                [_whole("hostile_n", [size]), _whole("hostile_v", [1.0], FLOAT)],
            ),
            (
                helper.make_node("Range", ["hostile_a", "hostile_n", "hostile_b"], ["hostile_out"]),
                [
                    _whole("hostile_a", 0.0, FLOAT),
                    _whole("hostile_n", float(size), FLOAT),
                    _whole("hostile_b", 1e-9, FLOAT),
                ],
            ),
            (helper.make_node("RandomNormal", [], ["hostile_out"], shape=[size]), []),
            (
                helper.make_node("Pad", ["hostile_v", "hostile_n"], ["hostile_out"]),
                [_whole("hostile_n", [0, size]), _whole("hostile_v", [1.0], FLOAT)],
            ),
            (
                helper.make_node("Resize", ["hostile_v", "", "", "hostile_n"], ["hostile_out"]),
                [_whole("hostile_n", [size]), _whole("hostile_v", [1.0], FLOAT)],
            ),
            (
                helper.make_node("OneHot", ["hostile_i", "hostile_n", "hostile_v"], ["hostile_out"]),
                [_whole("hostile_i", [0]), _whole("hostile_n", size), _whole("hostile_v", [0.0, 1.0], FLOAT)],
            ),
            (
                helper.make_node("EyeLike", ["hostile_v"], ["hostile_out"]),
                [_whole("hostile_v", np.zeros((1, 1)), FLOAT)],
            ),
            (
                helper.make_node("Gather", ["hostile_v", "hostile_i"], ["hostile_out"]),
                [_whole("hostile_v", [1.0], FLOAT), _whole("hostile_i", [size])],
            ),
            (
                helper.make_node("GatherND", ["hostile_v", "hostile_i"], ["hostile_out"]),
                [_whole("hostile_v", [1.0], FLOAT), _whole("hostile_i", [[size]])],
            ),
        )
    )
    _in_front(model, rng, made[0], made[1], "hostile_out")


def _function(model: ModelProto, rng: Random) -> None:
    """Functions defined in the file that call each other or themselves, twice each."""
    depth = rng.choice((1, 5, 40, 300))
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for k in range(depth):
        called = "Relu" if k == 0 else f"F{k - 1}"
        if rng.random() < 0.05:
            called = f"F{k}"
        domain = "" if called == "Relu" else "own"
        nodes = [
            helper.make_node(called, ["x"], ["y"], domain=domain),
            helper.make_node(called, ["y"], ["z"], domain=domain),
        ]
        model.functions.append(helper.make_function("own", f"F{k}", ["x"], ["z"], nodes, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    node = helper.make_node(f"F{depth - 1}", ["hostile_v"], ["hostile_out"], domain="own")
    _in_front(model, rng, node, [_whole("hostile_v", [1.0], FLOAT)], "hostile_out")


def _operator(model: ModelProto, rng: Random) -> None:
    """Another operator, domain, input, output or attribute of a node."""
    for _ in range(rng.choice((1, 1, 3))):
        node = rng.choice(model.graph.node)
        how = rng.randrange(8)
        if how == 0:
            node.op_type = rng.choice(
                (
                    "Loop",
                    "If",
                    "Scan",
                    "Einsum",
                    "StringSplit",
                    "Celu",
                    "MaxUnpool",
                    "NonMaxSuppression",
                    "",
                    "Conv",
                    "Identity",
                    "Reshape",
                    "Optional",
                    "SequenceEmpty",
                    "ImageDecoder",
                    "DFT",
                )
            )
        elif how == 1:
            node.domain = rng.choice(
                ("com.microsoft", "ai.onnx.ml", "own", "com.microsoft.nchwc", "ai.onnx.training", "\x1b[2J")
            )
        elif how == 2 and node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(
                ("", "images", "features", "nothing", node.output[0] if node.output else "")
            )
        elif how == 3 and node.output:
            node.output[0] = rng.choice(("", "images", "features", "a" * 100_000))
        elif how == 4:
            node.attribute.append(
                helper.make_attribute(
                    rng.choice(("pads", "strides", "kernel_shape", "axis", "perm", "group", "extra")),
                    rng.choice(([2**31] * 4, [-1, 0], 2**62, 0.5, "text", [0] * 100_000)),
                )
            )
        elif how == 5 and node.attribute:
            attribute = rng.choice(node.attribute)
            attribute.type = rng.randrange(15)
            attribute.i, attribute.ints[:] = (
                rng.choice((0, -1, 2**62)),
                [rng.choice((0, -1, 2**31, 2**62)) for _ in range(rng.choice((0, 1, 4, 8)))],
            )
        elif how == 6:
            model.graph.node.extend([node] * rng.choice((1, 2, 5000)))
        else:
            model.graph.node.remove(node)


def _tensor(model: ModelProto, rng: Random) -> None:
    """Constants of other shapes and types, without their bytes, or stored elsewhere."""
    tensor = rng.choice(model.graph.initializer)
    how = rng.randrange(9)
    if how == 0:
        tensor.dims[:] = rng.choice(([1 << 40], [1 << 62, 4], [-1], [0], [1] * 1000, [2**31, 2**31]))
    elif how == 1:
        tensor.data_type = rng.randrange(30)
    elif how == 2:
        tensor.raw_data = rng.choice(
            (
                b"",
                tensor.raw_data[:-1],
                tensor.raw_data * 2,
                b"\xff" * len(tensor.raw_data),
                b"\0\0\xc0\x7f" * (len(tensor.raw_data) // 4),
            )
        )
    elif how == 3:
        tensor.data_location = TensorProto.EXTERNAL
        location = rng.choice(("/etc/passwd", "../x", "/dev/zero", "tiny.onnx", "*/_ORT_MEM_ADDR_/*"))
        for key, value in (
            ("location", location),
            ("offset", rng.choice(("0", "140737488355328", "-1"))),
            ("length", "4096"),
        ):
            tensor.external_data.add(key=key, value=value)
    elif how == 4:
        tensor.float_data.extend([1.0] * rng.choice((1, 1000)))
    elif how == 5:
        for k in range(rng.choice((1, 20_000))):
            model.graph.initializer.append(_whole(f"more {k}", [k]))
    elif how == 6:
        sparse = model.graph.sparse_initializer.add()
        sparse.dims[:] = [1 << rng.choice((10, 32, 40))]
        sparse.values.CopyFrom(_whole(tensor.name, [1.0], FLOAT))
        sparse.indices.CopyFrom(_whole("", [rng.choice((0, 5, 1 << 39, -1))]))
        model.graph.initializer.remove(tensor)
    elif how == 7:
        tensor.name = rng.choice(("images", "features", "", model.graph.initializer[0].name))
    else:
        tensor.string_data.append(b"a" * 1000)


def _frame(model: ModelProto, rng: Random) -> None:
    """Metadata of the file: versions, inputs and outputs, metadata, training, and types of values."""
    how = rng.randrange(9)
    if how == 0:
        model.ir_version = rng.choice((0, -1, 1, 99, 2**62))
    elif how == 1:
        model.opset_import.append(
            helper.make_opsetid(
                rng.choice(("", "ai.onnx", "own", "com.microsoft")), rng.choice((0, 1, 18, 99, 2**62, -1))
            )
        )
    elif how == 2:
        info = rng.choice([*model.graph.input, *model.graph.output])
        shape = info.type.tensor_type.shape.dim
        if shape:
            rng.choice(shape).dim_value = rng.choice((0, -1, 1, 7, 2**62))
        info.type.tensor_type.elem_type = rng.choice((info.type.tensor_type.elem_type, 0, 8, 99))
    elif how == 3:
        model.graph.input.append(helper.make_tensor_value_info(rng.choice(("images", "more", "")), FLOAT, [1]))
    elif how == 4:
        model.graph.output.append(
            helper.make_tensor_value_info(rng.choice(("features", "map_L2", "map_L9", "images", "more")), FLOAT, None)
        )
    elif how == 5:
        model.metadata_props.add(
            key=rng.choice((CARD_KEY, DIGEST_KEY, "l2a-weights-sha256", "l2a-preprocess", "", "ep.context")),
            value=rng.choice(("{}", "", '"' + "0" * 64 + '"', "[" * 10_000)),
        )
    elif how == 6:
        model.training_info.add().algorithm.CopyFrom(model.graph)
    elif how == 7:
        for k in range(2000):
            model.graph.value_info.append(helper.make_tensor_value_info(f"v{k}", FLOAT, [2**62] * 4))
    else:
        model.graph.name = model.producer_name = rng.choice(NAMES).encode(errors="replace").decode()


def _edit(path: Path, rng: Random) -> str:
    model = load(path)
    ways: list[Callable[[ModelProto, Random], None]] = [
        rng.choice((_loop, _greedy, _greedy, _function, _operator, _operator, _tensor, _tensor, _frame))
        for _ in range(rng.choice((1, 1, 1, 2)))
    ]
    for way in ways:
        way(model, rng)
    save(path, model)
    return " ".join(way.__name__.strip("_") for way in ways)


def _bytes(path: Path, rng: Random) -> str:
    path.write_bytes(with_sha256(mutate(body_of(path), rng)))
    return "bytes"


def _nested(path: Path, rng: Random) -> str:
    """Messages nested deeper than a parser may go."""
    inner = b""
    for _ in range(rng.choice((50, 99, 200, 5000))):
        tag = rng.choice((b"\x0a", b"\x32"))  # a node's graph, an attribute's graph
        inner = tag + _varint(len(inner)) + inner
    path.write_bytes(with_sha256(body_of(path) + b"\x3a" + _varint(len(inner)) + inner))
    return "nested"


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


KINDS = {
    "onnx": Kind(seeds, pick((12, mutate_file), (1, special_file)), answer, sealed=True, share=4),
    "onnx-resealed": Kind(seeds, pick((4, _bytes), (12, _edit), (1, _nested)), answer, share=6),
}

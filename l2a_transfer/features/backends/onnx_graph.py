"""Check that `export` could have written an ONNX graph before ONNX Runtime loads it.

ONNX Runtime does whatever a graph says: it runs endless loops, fills the memory with a constant, reads other files. A
graph is therefore checked before it is loaded: its operators, their attributes, and the sizes of all its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.wording import first_line

OPSET = 18
SMALL = 64
"""Limit in bytes for a constant that determines a size."""
ALIVE, TOTAL = 2, 16
"""Limits for the memory of a graph's results, as multiples of the largest value that a network may have, as floats: for
results alive at the same time in the order of the nodes, and for all results, because a runtime may choose another
order. Exported graphs reach 0.91 (vgg-att3-*-add) and 7.1 (vgg-att3-concat-pc, entmax15, width 1/64)."""
MAX_NODES = 1000
"""The largest graph that `export` writes has 160."""
MAX_SIDES = 8
"""Limit of a value's axes. Exported networks have at most five; multiplying millions of sizes would take hours."""
BATCH = 1 << 12
"""Batch size for which sizes are computed, large enough to detect values that grow with its square."""
AT_MOST = 1 << 12
"""Limit of every number in an attribute, in pixels per side."""
ELEMENTS = {"FLOAT": 1, "UINT8": 2, "INT64": 7, "BOOL": 9}
"""The allowed element types, with ONNX's numbers."""
ELEMENT_BYTES = {1: 4, 2: 1, 7: 8, 9: 1}
FLAG, AXIS = (0, 1), (0, 3)
OPERATORS: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("Add", "Div", "Equal", "Expand", "Greater", "LessOrEqual", "MatMul", "Max", "Mul", "Pow")},
    **{name: {} for name in ("Relu", "Sigmoid", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze", "Where")},
    "ArgMax": {"axis": AXIS, "keepdims": FLAG, "select_last_index": (0, 0)},
    "BatchNormalization": {"momentum": float, "epsilon": float},
    "Cast": {"to": (1, 7)},
    "Concat": {"axis": AXIS},
    "Conv": {
        "auto_pad": b"NOTSET",
        "dilations": (1, 1),
        "group": (1, 1),
        "kernel_shape": (1, AT_MOST),
        "pads": (0, 16),
        "strides": (1, AT_MOST),
    },
    "CumSum": {"exclusive": FLAG, "reverse": FLAG},
    "Gather": {"axis": AXIS},
    "GatherElements": {"axis": AXIS},
    "Gemm": {"alpha": float, "beta": float, "transA": FLAG, "transB": FLAG},
    "MaxPool": {
        "auto_pad": b"NOTSET",
        "ceil_mode": FLAG,
        "dilations": (1, 1),
        "kernel_shape": (1, AT_MOST),
        "pads": (0, 16),
        "storage_order": (0, 0),
        "strides": (1, AT_MOST),
    },
    "ReduceMax": {"keepdims": FLAG, "noop_with_empty_axes": FLAG},
    "ReduceMean": {"keepdims": FLAG, "noop_with_empty_axes": FLAG},
    "ReduceSum": {"keepdims": FLAG, "noop_with_empty_axes": FLAG},
    "Reshape": {"allowzero": FLAG},
    "Shape": {"start": AXIS, "end": (0, 4)},
    "Softmax": {"axis": AXIS},
    "TopK": {"axis": AXIS, "largest": FLAG, "sorted": FLAG},
    "Transpose": {"perm": AXIS},
}
"""Operator of the standard domain → its attributes: the range of one or several integers, a float, or a string. A test
exports every family with every normalizer and option, and compares."""
OF_FLOATS = ("Div", "Pow", "Sqrt")
"""Operators whose results must be floats, because dividing integers by 0 ends the process."""
OF_MODEL = {"ir_version", "producer_name", "producer_version", "graph", "opset_import", "metadata_props", "doc_string"}
OF_GRAPH = {"node", "name", "initializer", "input", "output", "value_info", "doc_string"}


def check_graph(model: Any, config: ModelConfig, size: int) -> tuple[float, float]:
    """Check that a model has only operators that `export` writes, and that its values are not larger than those of the
    network of `config` at `size` pixels, individually and together. Returns the memory of its results, at the same time
    and in total, as multiples of the largest allowed value. Raises: ValueError naming the node or value.
    """
    for message, known, what in ((model, OF_MODEL, "model"), (model.graph, OF_GRAPH, "graph")):
        if unknown := sorted({field.name for field, _ in message.ListFields()} - known):
            raise ValueError(f"the {what} has {', '.join(unknown)}")
    if [(entry.domain, entry.version) for entry in model.opset_import] != [("", OPSET)]:
        raise ValueError(f"all its operators must belong to the standard operator set {OPSET}")
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"{len(model.graph.node):,} nodes; at most {MAX_NODES:,} are allowed")
    for node in model.graph.node:
        _check_node(node)
    for tensor in model.graph.initializer:
        if tensor.data_type not in ELEMENTS.values():
            raise ValueError(f"the constant {tensor.name!r} has the element type {tensor.data_type}")
        if len(tensor.dims) > MAX_SIDES:
            raise ValueError(f"the constant {tensor.name!r} has {len(tensor.dims):,} axes")
        if min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > len(tensor.raw_data):
            raise ValueError(f"the constant {tensor.name!r} is larger than its bytes")
    return _check_sizes(model, config, size)


def _check_node(node: Any) -> None:
    allowed = OPERATORS.get(node.op_type)
    if node.domain or allowed is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ValueError(f"the node {node.name!r} has the operator {operator!r}, which no exported network contains")
    for attribute in node.attribute:
        expected = allowed.get(attribute.name)
        if not _is_within(attribute, expected):
            raise ValueError(
                f"the node {node.name!r} has an attribute {attribute.name!r} that no exported {node.op_type} has"
            )


def _is_within(attribute: Any, expected: Any) -> bool:
    kind = attribute.AttributeType
    if isinstance(expected, tuple):
        low, high = expected
        integers = {kind.INT: [attribute.i], kind.INTS: list(attribute.ints)}.get(attribute.type)
        return integers is not None and len(integers) <= 8 and all(low <= value <= high for value in integers)
    if expected is float:
        return bool(attribute.type == kind.FLOAT and math.isfinite(attribute.f))
    return expected is not None and attribute.type == kind.STRING and attribute.s == expected


def _check_sizes(model: Any, config: ModelConfig, size: int) -> tuple[float, float]:
    """See `check_graph`. Raises: ValueError if the size of a value is unknown in advance, or too large."""
    import onnx

    (images,) = model.graph.input
    kind = images.type.tensor_type
    if kind.elem_type != ELEMENTS["UINT8"] or [d.dim_value for d in kind.shape.dim] != [0, 3, size, size]:
        raise ValueError(f"its input must be uint8 (N, 3, {size}, {size})")
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    sized.graph.input[0].type.tensor_type.shape.dim[0].dim_value = BATCH
    del sized.graph.value_info[:]  # sizes declared by the file are not trusted
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    nodes = [part for node in sized.graph.node for part in _with_known_sizes(node)]
    del sized.graph.node[:]
    sized.graph.node.extend(nodes)
    for tensor in sized.graph.initializer:
        if len(tensor.raw_data) > SMALL:
            tensor.raw_data = b""
    try:
        found = onnx.shape_inference.infer_shapes(sized, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ValueError(f"its sizes are inconsistent: {first_line(error)}") from error
    largest = BATCH * max(config.channels(1024), 3) * size * size
    values = {value.name: value.type.tensor_type for value in (*found.graph.value_info, *found.graph.output)}
    for node in model.graph.node:
        for name in filter(None, node.output):
            _check_value(name, node, values.get(name), largest)
    sizes = {
        name: math.prod(dim.dim_value for dim in kind.shape.dim) * ELEMENT_BYTES[kind.elem_type]
        for name, kind in values.items()
        if kind.elem_type in ELEMENT_BYTES
    }
    alive, total = (found / (largest * 4) for found in _memory(model.graph, sizes))
    for when, times, most in (("alive at the same time", alive, ALIVE), ("in total", total, TOTAL)):
        if times > most:
            raise ValueError(
                f"its values {when} are {times:.1f} times as large as the largest allowed value; at most {most} times "
                "are allowed"
            )
    return alive, total


def _memory(graph: Any, sizes: dict[str, int]) -> tuple[int, int]:
    """The peak bytes of results in the order of the nodes, and the bytes of all results.

    A result lives from its node to the last node that uses it; an output of the graph lives to the end.
    """
    last = {name: at for at, node in enumerate(graph.node) for name in (*node.output, *node.input)}
    last |= {output.name: len(graph.node) for output in graph.output}
    ends: dict[int, int] = {}
    alive = most = total = 0
    for at, node in enumerate(graph.node):
        for name in filter(None, node.output):
            alive += sizes[name]
            total += sizes[name]
            ends[last[name]] = ends.get(last[name], 0) + sizes[name]
        most = max(most, alive)
        alive -= ends.pop(at, 0)
    return most, total


def _with_known_sizes(node: Any) -> Iterable[Any]:
    """The node itself. TopK's size depends on a value, so it is replaced by nodes with its largest possible results."""
    import onnx

    if node.op_type != "TopK":
        return [node]
    names = [name or f"{node.name} {k}" for k, name in enumerate(node.output)]
    same = [onnx.helper.make_node("Identity", [node.input[0]], [names[0]])]
    if len(names) > 1:
        same.append(onnx.helper.make_node("Cast", [node.input[0]], [names[1]], to=ELEMENTS["INT64"]))
    return same


def _check_value(name: str, node: Any, kind: Any, largest: int) -> None:
    sizes = [] if kind is None else [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    if kind is None or not kind.HasField("shape") or min(sizes, default=0) < 0:
        raise ValueError(f"the size of {name!r}, of the node {node.name!r} ({node.op_type}), is unknown in advance")
    if len(sizes) > MAX_SIDES:
        raise ValueError(f"{name!r}, of the node {node.name!r} ({node.op_type}), has {len(sizes):,} axes")
    if math.prod(sizes) > largest:
        raise ValueError(
            f"{name!r}, of the node {node.name!r} ({node.op_type}), is larger than any value of its network"
        )
    if kind.elem_type not in ELEMENTS.values() or (node.op_type in OF_FLOATS and kind.elem_type != ELEMENTS["FLOAT"]):
        raise ValueError(f"{name!r}, of the node {node.name!r} ({node.op_type}), has the element type {kind.elem_type}")

"""Which ONNX graphs are handed to ONNX Runtime: those that `export` can have written, and no other.

ONNX Runtime does what a graph says: it goes round in a Loop for ever, fills the memory with a constant, reads other
files. So a graph is judged before it is loaded: by its operators, their attributes, and the sizes of all its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from l2a_transfer.models.config import ModelConfig
from l2a_transfer.wording import first_line

OPSET = 18
SMALL = 64
"""Bytes of a constant that decides a size."""
ALIVE, TOTAL = 2, 16
"""How many times the largest value that a network may have, as floats, its results may take:
those alive at a time in the order of the nodes, and all of them, since a runtime may choose another order. Of what
`export` writes, the most are 0.91 (vgg-att3-*-add) and 7.1 (vgg-att3-concat-pc, entmax15, width 1/64)."""
MAX_NODES = 1000
"""The largest graph that `export` writes has 160."""
MAX_SIDES = 8
"""Of a value; those of exported networks have at most five. To multiply millions of sides would take hours."""
BATCH = 1 << 12
"""Images for which sizes are computed: so many that a value which grows with their square is seen."""
AT_MOST = 1 << 12
"""Of every number in an attribute: pixels of a side."""
ELEMENTS = {"FLOAT": 1, "UINT8": 2, "INT64": 7, "BOOL": 9}
"""The element types of all values, as ONNX numbers them."""
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
"""Operator of the standard domain → its attributes: the smallest and largest of one or several integers, a float, or
one text. A test exports every family with every normalizer and option and compares."""
OF_FLOATS = ("Div", "Pow", "Sqrt")
"""Whose results must be floats: to divide integers by 0 ends the process."""
OF_MODEL = {"ir_version", "producer_name", "producer_version", "graph", "opset_import", "metadata_props", "doc_string"}
OF_GRAPH = {"node", "name", "initializer", "input", "output", "value_info", "doc_string"}


def check_graph(model: Any, config: ModelConfig, size: int) -> tuple[float, float]:
    """That a model has the operators of `export` alone, and no value that is larger than those of the network of
    `config` at `size` pixels, nor all together: how many times the largest one may be its results take at a time, and
    in all. Raises: ValueError saying what is wrong, with the name of the node or value.
    """
    for message, known, what in ((model, OF_MODEL, "model"), (model.graph, OF_GRAPH, "graph")):
        if unknown := sorted({field.name for field, _ in message.ListFields()} - known):
            raise ValueError(f"the {what} has {', '.join(unknown)}")
    if [(entry.domain, entry.version) for entry in model.opset_import] != [("", OPSET)]:
        raise ValueError(f"its operators must be of the standard set {OPSET} alone")
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"{len(model.graph.node):,} nodes, and at most {MAX_NODES:,} are run")
    for node in model.graph.node:
        _check_node(node)
    for tensor in model.graph.initializer:
        if tensor.data_type not in ELEMENTS.values():
            raise ValueError(f"the constant {tensor.name!r} has the element type {tensor.data_type}")
        if len(tensor.dims) > MAX_SIDES:
            raise ValueError(f"the constant {tensor.name!r} has {len(tensor.dims):,} sides")
        if min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > len(tensor.raw_data):
            raise ValueError(f"the constant {tensor.name!r} is larger than its bytes")
    return _check_sizes(model, config, size)


def _check_node(node: Any) -> None:
    allowed = OPERATORS.get(node.op_type)
    if node.domain or allowed is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ValueError(f"the node {node.name!r} is of the operator {operator!r}, which no exported network has")
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
    """As `check_graph`. Raises: ValueError for a value whose size cannot be told beforehand, or is too large."""
    import onnx

    (images,) = model.graph.input
    kind = images.type.tensor_type
    if kind.elem_type != ELEMENTS["UINT8"] or [d.dim_value for d in kind.shape.dim] != [0, 3, size, size]:
        raise ValueError(f"its input must be uint8 (N, 3, {size}, {size})")
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    sized.graph.input[0].type.tensor_type.shape.dim[0].dim_value = BATCH
    del sized.graph.value_info[:]  # what a file claims of its values
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
        raise ValueError(f"its sizes do not fit together: {first_line(error)}") from error
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
    for when, times, most in (("alive at a time", alive, ALIVE), ("in all", total, TOTAL)):
        if times > most:
            raise ValueError(
                f"its values together are {times:.1f} times as large as the largest that one may be, {when}, and at "
                f"most {most} times are run"
            )
    return alive, total


def _memory(graph: Any, sizes: dict[str, int]) -> tuple[int, int]:
    """The most bytes of results that are alive at a time, in the order of the nodes, and the bytes of all results.

    A result lives from its node to the last that takes it, an output of the graph to the end.
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
    """The node; for TopK, whose size depends on a value, nodes whose results are as large as its can become."""
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
        raise ValueError(f"the size of {name!r}, of the node {node.name!r} ({node.op_type}), cannot be told beforehand")
    if len(sizes) > MAX_SIDES:
        raise ValueError(f"{name!r}, of the node {node.name!r} ({node.op_type}), has {len(sizes):,} sides")
    if math.prod(sizes) > largest:
        raise ValueError(f"{name!r}, of the node {node.name!r} ({node.op_type}), is larger than any of its network")
    if kind.elem_type not in ELEMENTS.values() or (node.op_type in OF_FLOATS and kind.elem_type != ELEMENTS["FLOAT"]):
        raise ValueError(f"{name!r}, of the node {node.name!r} ({node.op_type}), has the element type {kind.elem_type}")

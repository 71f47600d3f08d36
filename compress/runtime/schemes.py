"""Schemes of quantization: all that is known of one, in one row."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scheme:
    """What a scheme is good for, how it rounds, and how its file is run and judged.

    bytes: of a weight, at most. weight_bits, activation_bits: of the levels that are simulated; None: float. four_bits:
    whether weights of linear layers in transformers have four. least_db: SQNR that a file keeps to the PyTorch model,
    and that the one graph of all steps keeps to the steps. by_simulation: the file is held to the float model by as
    much as its simulation is, since its kernels round otherwise and differences grow with depth. whole_graph: whether
    every value is rounded, in a graph that a target writes and no `quantize`. session: onnxruntime's
    options, where it runs best.
    """

    purpose: str
    bytes: int
    least_db: float
    least_sampler_db: float
    weight_bits: int | None = None
    activation_bits: int | None = None
    four_bits: bool = False
    by_simulation: bool = False
    whole_graph: bool = False
    session: Mapping[str, str] = field(default_factory=dict)

    @property
    def weights_alone(self) -> bool:
        """Whether weights are rounded and nothing else."""
        return self.weight_bits is not None and self.activation_bits is None


# Weights become float once, when the session opens, and not at every call.
_AT_ONCE = {"session.disable_quant_qdq": "1"}

SCHEMES = {
    "float": Scheme("float32", 4, 80.0, 60.0),
    "int8": Scheme(
        "weights and activations",
        1,
        80.0,
        20.0,
        weight_bits=8,
        activation_bits=8,
        by_simulation=True,
        # Convolutions transpose to channels last and back within their kernels; onnxruntime would otherwise take those
        # transposes out and move them past dequantization, which for small nets costs more kernels than it saves.
        # Factors of products that are int8 stay so: onnxruntime would otherwise make them uint8 on x86, where that
        # takes twice as long.
        session={
            "optimization.disable_specified_optimizers": "NhwcTransformer",
            "session.qdqisint8allowed": "1",
        },
    ),
    "int8_weights": Scheme(
        "weights alone, a file as small that computes in float", 1, 80.0, 60.0, weight_bits=8, session=_AT_ONCE
    ),
    "int4_weights": Scheme(
        "the same with four bits for linear layers of transformers",
        1,
        80.0,
        60.0,
        weight_bits=8,
        four_bits=True,
        session=_AT_ONCE,
    ),
    "fp16": Scheme("half precision", 2, 30.0, 20.0),
    "w8a16": Scheme(
        "every value in 16 bits", 1, 80.0, 20.0, weight_bits=8, activation_bits=16, whole_graph=True, session=_AT_ONCE
    ),
    "w8a8": Scheme(
        "every value in 8 bits", 1, 80.0, 20.0, weight_bits=8, activation_bits=8, whole_graph=True, session=_AT_ONCE
    ),
}

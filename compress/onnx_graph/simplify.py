"""Constants folded and nodes that do nothing removed, by onnxscript's rules and a few of our own.

Its own list has a rule of two outputs that searches the whole graph at every node, which takes most of an export's time
and grows with the square of the net: so the list is ours.
"""

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

from compress.onnx_graph.rules import DEPTH_TO_SPACE, DROP_ONES, DROP_SQUEEZE, PAD_ROUNDED, SCALE_AND_SHIFT

RULES = (
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.dropout_zero_rule,
    rules.dropout_inference_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    PAD_ROUNDED,
    DEPTH_TO_SPACE,
    rules.fuse_pad_into_conv_rule,
    *DROP_ONES.commute(),
)
# What makes constants grow: folded where it is small.
GROWING = {"DequantizeLinear", "QuantizeLinear", "Expand", "ConstantOfShape", "Tile", "Range", "Cast"}


def simplify(model: ir.Model) -> None:
    """Change `model`, as the exporter wrote it, into fewer nodes that compute the same."""
    passes.InlinePass()(model)
    RewriteRuleSet([DROP_SQUEEZE]).apply_to_model(model)  # before shapes are inferred, which it would stop
    rewrite = RewritePass(RULES)
    for _ in range(2):  # what one rule leaves, another may take
        fold_constants_ir(
            model, onnx_shape_inference=True, should_fold=lambda node: None if node.op_type in GROWING else True
        )
        passes.ShapeInferencePass()(model)
        rewrite(model)
        passes.RemoveUnusedNodesPass()(model)
    tidy(model)


def collapse(model: ir.Model) -> None:
    """Change `model` into fewer nodes by the rules alone, as after a rewrite that moves tensors."""
    rewrite = RewritePass(RULES)
    for _ in range(2):  # what one rule leaves, another may take
        rewrite(model)
        passes.RemoveUnusedNodesPass()(model)
    tidy(model)


def tidy(model: ir.Model, share: bool = True) -> None:
    """What a rewrite leaves: constants are initializers, nothing stands unread, and every name is its own.

    share: nothing stands twice either.
    """
    for each in (
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        *((passes.DeduplicateInitializersPass(), passes.CommonSubexpressionEliminationPass()) if share else ()),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        each(model)


def merge_affine(model: ir.Model) -> int:
    """Scale and shift channels in one kernel instead of two. Changes `model`; returns how many nodes went."""
    merged: int = RewriteRuleSet(SCALE_AND_SHIFT.commute()).apply_to_model(model)
    tidy(model)
    return merged

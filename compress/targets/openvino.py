"""OpenVINO: the bundle again, with attention in the form that it computes in bytes.

Bundle(folder, engine=OpenVino())     or   compress sample FOLDER --engine openvino
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from compress.errors import BundleError
from compress.onnx_graph.for_openvino import for_openvino
from compress.pipeline.manifest import copy_bundle, vouch
from compress.runtime import Bundle
from compress.runtime.contents import graphs
from compress.runtime.engines import OpenVino
from compress.runtime.external import external_files
from compress.targets.made import Exported
from compress.targets.needs import Needs

engine = OpenVino()


def prepare(needs: Needs) -> None:
    """As `compress.targets` says: whatever onnxruntime runs, OpenVINO reads."""


def write(made: Exported, folder: Path) -> None:
    """The bundle, its graphs rewritten where there is something to rewrite."""
    bundle = made.bundle
    copy_bundle(bundle, folder)
    for name in graphs(bundle.manifest):
        beside = external_files(bundle.path / name)
        graph = ir.load(bundle.path / name)
        if for_openvino(graph):
            (folder / name).unlink()  # a link to the bundle's own
            for weights in beside:
                (folder / name).with_name(weights).unlink()
            ir.save(graph, folder / name, external_data=next(iter(beside), None))
    vouch(folder, bundle.manifest)


def judge(made: Exported, folder: Path) -> Mapping[str, Any]:
    """How near its kernels are to the model. Raises ExportError."""
    try:
        version = engine.version
    except BundleError as error:
        return {"run": f"converted, not run: {error}"}
    assert made.source is not None
    return {"engine": f"{engine.name} {version}", **made.source.check(Bundle(folder, engine=engine))}

"""What nobody would do without: images of numbers, from the files that are listed."""

import numpy as np

from compress.errors import BundleError
from compress.report.parts import Figure
from compress.runtime import Bundle
from compress.runtime.contents import verify_files
from compress.runtime.manifest import read_manifest


def figures(samples: np.ndarray, bundle: Bundle) -> dict[str, Figure]:
    """Both. samples [b,c,h,w]: of the bundle."""
    return {"finite_output": finite_output(samples), "listed_files": listed_files(bundle)}


def finite_output(samples: np.ndarray) -> Figure:
    """The share of samples [b,c,h,w] without NaN and infinity."""
    return Figure(value=float(np.isfinite(samples).all(axis=(1, 2, 3)).mean()), better="more", count=len(samples))


def listed_files(bundle: Bundle) -> Figure:
    """1 if the bundle's list names its models and all files have the hashes that it had when it was opened, else 0."""
    listed = bundle.manifest["files"]
    models = {bundle.manifest["model"], bundle.manifest.get("sampler")} - {None}
    try:
        now = read_manifest(bundle.path)
        verify_files(bundle.path, now)
        same = now["files"] == listed
    except BundleError:
        same = False
    return Figure(value=float(same and models <= set(listed)), better="more", count=len(listed))

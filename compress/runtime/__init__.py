"""What a device needs: draws samples from a bundle with numpy and onnxruntime; never imports torch."""

from compress.runtime.bundle import Bundle

__all__ = ["Bundle"]

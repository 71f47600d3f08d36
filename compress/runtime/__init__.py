"""What a device needs: draws samples from a bundle with numpy and an engine; never imports torch.

`Bundle` reads a folder, `sampling` holds the loop that everything samples with, `schemes` the table of precisions;
`foreign` asks the graphs of other tools. Imports settings, files and errors alone. Start reading with `bundle.py`.
"""

from compress.runtime.bundle import Bundle

__all__ = ["Bundle"]

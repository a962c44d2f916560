"""Export to other runtimes, each file compared with the model before it gets its name.

It needs the packages of the extra `pliant[export]` for ONNX; `torch.export` needs nothing.
"""

from pliant.export.check import ExportCheck, ExportError, MissingExportExtraError
from pliant.export.onnx import to_onnx
from pliant.export.torch_export import to_torch_export

__all__ = ["ExportCheck", "ExportError", "MissingExportExtraError", "to_onnx", "to_torch_export"]

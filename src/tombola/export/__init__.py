"""Tickets for other tools: ONNX, torch.export, Hugging Face, and compact files."""

from .files import compact
from .pretrained import from_pretrained, save_pretrained
from .programs import onnx, program

__all__ = ["compact", "from_pretrained", "onnx", "program", "save_pretrained"]

"""Failures that a recipe reports in one line; here, since the modules that raise them take seconds to import."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read."""


class ConversionError(RuntimeError):
    """What a conversion made is not the model that it was made from, and must not be used."""

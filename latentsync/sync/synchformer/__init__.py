"""Synchformer: by how many seconds sound and picture of any clip are off, and whether that can be told."""

from latentsync.sync.synchformer.network import SegmentContrast, Synchformer

__all__ = ["SegmentContrast", "Synchformer"]

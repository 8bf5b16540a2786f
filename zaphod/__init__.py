"""Serve one packaged scikit-learn model online, in batch and on a stream, with the same answer from each."""

__version__ = "0.1.0"

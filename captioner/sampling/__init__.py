"""Decoding: from next-token logits to captions with scores."""

from captioner.sampling.settings import DecodingSettings

__all__ = ["DecodingSettings"]

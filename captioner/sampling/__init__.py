"""Decoding: from next-token logits to captions with scores."""

from captioner.sampling.settings import BeamSearch, DecodingSettings, Greedy, NucleusSampling

__all__ = ["BeamSearch", "DecodingSettings", "Greedy", "NucleusSampling"]

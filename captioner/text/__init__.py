"""Text: the byte-level BPE tokenizer and the arrays that training reads."""

from captioner.text.targets import TrainingTargets, training_targets
from captioner.text.tokenizer import CaptionTokenizer, train_tokenizer

__all__ = ["CaptionTokenizer", "TrainingTargets", "train_tokenizer", "training_targets"]

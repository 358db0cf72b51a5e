"""Let the samples of a batch learn from each other: AttnMixup and SemanticKLLoss for any PyTorch model."""

from attnmixup import functional
from attnmixup.attn_mixup import AttnMixup
from attnmixup.mixed_batch import MixedBatch, Origin
from attnmixup.sample_attention import SampleAttention
from attnmixup.sampling import MixupPlan
from attnmixup.semantic_kl import SemanticKLLoss

__version__ = "0.1.0"

__all__ = ["AttnMixup", "MixedBatch", "MixupPlan", "Origin", "SampleAttention", "SemanticKLLoss", "functional"]

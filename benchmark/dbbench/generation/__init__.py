"""Generation: backbones, and the tools for methods to train and sample; no scores here."""

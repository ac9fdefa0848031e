"""Generation: backbones, and what methods train and sample with; knows nothing of scores."""

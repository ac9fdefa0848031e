"""Evaluation: images -> features -> scores -> leaderboard; knows nothing of training."""

"""Evaluation: images -> features -> scores -> leaderboard; independent of training."""

"""Planning: which artifacts a suite needs, which are missing, and what they will cost."""

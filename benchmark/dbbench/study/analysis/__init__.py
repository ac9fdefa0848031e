"""The analysis of a user study: answers -> shares, agreement, and their intervals."""

"""The design of a user study: which pairs are shown, and the folder that holds all of it."""

"""Tables and pages of user studies."""

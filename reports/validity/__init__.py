"""Tables and pages of `dbbench validity`."""

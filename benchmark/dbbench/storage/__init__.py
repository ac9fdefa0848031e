"""Storage: artifacts with manifests, suite.json, leases, events, and folders behind addresses."""

"""The 30 subjects as data: names, class nouns, files with SHA-256, attribution."""

"""The answers of a user study: the database, its schema, and exports."""

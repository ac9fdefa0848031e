"""What `import dbbench` offers as functions: run, score, load_run."""

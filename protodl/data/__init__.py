"""Images as networks see them; the files themselves lie in data/ at the root of the project."""

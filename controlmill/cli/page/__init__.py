"""The page that `controlmill report` writes: one file, no scripts, nothing from elsewhere."""

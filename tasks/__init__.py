"""Units of work in plain Python: what is done to rows and shards, without Prefect and without Ray."""

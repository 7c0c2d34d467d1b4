"""What is on disk: datasets, layers, shards and their commit records."""

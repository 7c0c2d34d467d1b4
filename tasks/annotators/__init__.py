"""Annotators: units that make a condition map from every image, one file each."""

"""Captioners: RGB images in, one sentence or one failure per image out."""

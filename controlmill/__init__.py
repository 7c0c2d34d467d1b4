"""controlmill: from a list of image URLs to a trained ControlNet."""

__version__ = "0.1.0"

"""The colours of ADE20K's classes; they are in `storage`, because training draws them from the stored class ids."""

from storage.ade20k import NUM_CLASSES, draw_classes

__all__ = ["NUM_CLASSES", "draw_classes"]

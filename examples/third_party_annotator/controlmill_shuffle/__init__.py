"""Content shuffle for controlmill."""

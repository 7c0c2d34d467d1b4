"""What every pixel shows, as ADE20K's 150 classes."""

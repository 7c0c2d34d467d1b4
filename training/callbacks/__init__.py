"""What listens to a training run: one file each."""

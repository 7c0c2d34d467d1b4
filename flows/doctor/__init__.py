"""`controlmill doctor`: what of this machine is as it has to be, and what to do about the rest."""

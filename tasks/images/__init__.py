"""From downloaded bytes to the RGB image that is stored: check, decode, turn upright, colour-manage, resize, encode."""

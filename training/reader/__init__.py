"""The rows that a run trains on, in an order that depends on seed and epoch alone, ready when the step wants them."""

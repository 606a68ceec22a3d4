"""Ways down to the best fit: by least squares, by gradients, and what is held because the data do not tell it."""

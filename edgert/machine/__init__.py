"""Machine: what a bundle finds on the machine it lies on: checks, tuning, heat."""

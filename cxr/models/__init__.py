"""Networks: an encoder catalogue and what stands on it."""

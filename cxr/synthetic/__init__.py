"""X-rays that are drawn, in the true on-disk format of each data set."""

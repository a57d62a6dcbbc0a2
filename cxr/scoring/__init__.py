"""How predictions are judged, and what step 05 may search."""

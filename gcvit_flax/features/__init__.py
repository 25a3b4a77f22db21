"""Features of frozen networks, and classifiers on them."""

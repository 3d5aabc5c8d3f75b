"""The site's pages on speed: asv's history without a network, and our own summary."""

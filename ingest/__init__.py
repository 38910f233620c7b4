"""Documents to chunks to Qdrant: read, split, diff, embed, publish."""

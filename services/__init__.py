"""The processes, one folder each. The only place where the rooms meet."""

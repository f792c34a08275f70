"""A model: from its source in a suite to checked files, and from those to a loaded module."""

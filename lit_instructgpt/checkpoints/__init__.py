"""Training states on disk: whole or not at all, verified before they are read, nothing unpickled."""

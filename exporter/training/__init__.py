"""Train zoo networks. A run that was killed can be resumed."""

"""Training of zoo networks that goes on after a kill."""

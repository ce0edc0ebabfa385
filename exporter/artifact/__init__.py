"""The artifact folder: reading it, writing it, and its passport."""

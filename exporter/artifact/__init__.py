"""The folder that we hand over: reading, writing, the passport."""

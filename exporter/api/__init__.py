"""The Python API: the same product as the command line, for people who train in Python.

Nothing prints on its own. ``progress=True`` shows bars, in a terminal and in a notebook. Results
are frozen, have ``to_dict()``, and show themselves as the command line would.
"""

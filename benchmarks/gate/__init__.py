"""A gate in CI: facts of an artifact, held to a committed baseline."""

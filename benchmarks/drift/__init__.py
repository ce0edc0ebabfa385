"""Where accuracy goes: every step from Keras to the engine, and every layer."""

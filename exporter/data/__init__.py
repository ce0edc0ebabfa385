"""Images and labels, and the choice of those to calibrate, recover or judge on."""

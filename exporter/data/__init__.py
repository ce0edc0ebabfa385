"""Images and labels, and which of them calibrate, recover or judge."""

"""What this machine is: its CPU, its GPUs, its libraries and how to install more."""

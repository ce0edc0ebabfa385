"""The commands of the command line. Commands that belong together share a file."""

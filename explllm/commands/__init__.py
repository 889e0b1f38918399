"""The commands and their shared helpers. A command parses options, calls the library and prints the results."""

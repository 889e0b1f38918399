"""The commands, which parse options, call the library and print the results, and the helpers that they share."""

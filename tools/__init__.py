"""The `captioner` command: reads flags, calls the libraries, prints."""

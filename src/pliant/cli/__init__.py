"""The command line: one file a command. It needs the packages of the extra `pliant[cli]`."""

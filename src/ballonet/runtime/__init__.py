"""What programs of ours need from the operating system: child processes, files, limits."""

"""Where the clients of a federation run, other than in this process."""

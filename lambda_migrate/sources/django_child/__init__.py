"""What the child process runs for Django; only these modules import it. `run` is the entry."""

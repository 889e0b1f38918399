"""What people look at: text for the terminal, the HTML page of a run."""

"""Jobs on a backend: the server that runs them, and the client that every user of it shares."""

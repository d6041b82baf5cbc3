"""Programs that run in the environment of the official SDK, and import nothing ours."""

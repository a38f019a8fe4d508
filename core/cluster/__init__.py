"""Jobs of `labbook launch`: the requested resources, submission, and the program that each task runs."""

"""Jobs: what a launch asks for, how it is submitted, what a task of it does."""

"""The project on a machine without AWS: an embedded AWS, the stack deployed to it, and the demo."""

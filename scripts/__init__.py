"""Scripts: the plan, the generated documentation, and checks."""

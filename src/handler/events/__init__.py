"""Events: what an event or a payload asks for. Pure: no calls, no settings."""

"""The simulated world: people, posts and a logging policy whose true preferences are known exactly."""

"""What the user gets: the funnel spec and its stages, the HTTP service and its page."""

"""Above all rooms: the funnel measured in the world whose truth is known, and what state a workspace is in."""

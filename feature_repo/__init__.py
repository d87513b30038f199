"""What the platform knows about users, posts and creators, and since when: everything Feast."""

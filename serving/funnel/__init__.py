"""The four stages of a feed, from the whole catalogue to one slate, over columnar candidates."""

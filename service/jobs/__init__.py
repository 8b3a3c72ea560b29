"""Work under way: its queues, its attempts, its ends."""

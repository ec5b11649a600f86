"""VMware's balloon, both ends: pure."""

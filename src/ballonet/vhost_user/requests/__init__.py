"""What each message of a front-end does: one function for each request."""

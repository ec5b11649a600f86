"""vhost-user, the back-end's side: messages, the session of one front-end, and the server."""

"""Memory for all VMs of a host: what each needs, what there is, who gets what, and why.  Pure."""

"""The balloon device: chains and configuration accesses in; answers, discards and facts out."""

"""Guest memory on the host: regions, page numbers to ranges, mappings, discards."""

"""A small guest kernel: buddy allocator, page cache, reclaim, swap, OOM killer, compaction."""

"""Laws on real kernels: six guests at work under one budget that is a wall."""
